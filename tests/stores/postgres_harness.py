"""Where tests of the PostgreSQL store get their conformance harness and raw looks into a schema from."""

from __future__ import annotations

from functools import partial
from typing import Any

import psycopg

from threadmark.stores.postgres import PostgresStore
from threadmark.testing.conformance import Harness


def make_store(url: str, place: str) -> PostgresStore:
    """A store in a schema of its own; picklable with `functools.partial`, for child processes."""
    return PostgresStore(url, schema=place)


class PostgresHarness(Harness):
    """Removes the schemas that it made."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(partial(make_store, url), **options)
        self.url = url

    async def aclose(self) -> None:
        places = {place for place, _ in self._stores}
        await super().aclose()
        drop(self.url, *places)


def drop(url: str, *schemas: str) -> None:
    """Remove schemas with all that is in them."""
    with psycopg.connect(url, autocommit=True) as db:
        for schema in schemas:
            db.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')


def raw(url: str, schema: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table but the record of migrations."""
    tables = ("resources", "threads", "messages", "runs", "working_memory")
    with psycopg.connect(url) as db:
        return {
            table: sorted(db.execute(f'SELECT * FROM "{schema}".{table}').fetchall(), key=repr)
            for table in tables
        }

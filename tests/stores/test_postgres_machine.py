"""The state machine of owners on PostgreSQL: the handles agree with the plain model of the contract."""

from __future__ import annotations

import uuid
from typing import ClassVar

import pytest
from owners_machine import Machine, run
from postgres_harness import drop

from threadmark.stores.base import Store
from threadmark.stores.postgres import PostgresStore


class PostgresMachine(Machine):
    url: ClassVar[str]

    def make_store(self) -> Store:
        self.schema = f"machine{uuid.uuid4().hex}"
        return PostgresStore(self.url, schema=self.schema, pool_size=2)

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "schema"):
            drop(self.url, self.schema)


def test_owners_never_meet(postgres: str) -> None:
    """Sequences of all operations by two owners with colliding ids agree with the model, step by step."""
    PostgresMachine.url = postgres
    run(PostgresMachine, 12, 30)


@pytest.mark.nightly
def test_owners_never_meet_all_night(postgres: str) -> None:
    """The same with many more and longer sequences."""
    PostgresMachine.url = postgres
    run(PostgresMachine, 500, 60)

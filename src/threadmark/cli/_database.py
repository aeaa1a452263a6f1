"""From `--db` to an open memory, and from times to text."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from urllib.parse import quote, unquote

from .._errors import ConfigurationError, NotFoundError
from ..memory import Memory
from ..stores._url import open_store
from ..stores.base import Store

DEFAULT = "threadmark.db"


def storage_url(db: str) -> str:
    """A storage URL as it is; a path as the URL of that file. Raises `ConfigurationError` for nothing."""
    if not db:
        raise ConfigurationError("--db is empty; give a path or a storage URL")
    return db if "://" in db else f"sqlite:///{quote(db)}"


def open_memory(db: str, *, must_exist: bool = False, working_memory: bool = False) -> Memory:
    """Open the database. With `must_exist` a missing file raises `NotFoundError` and is not created."""
    url = storage_url(db)
    scheme, _, path = url.partition(":///")
    if must_exist and scheme == "sqlite" and not Path(unquote(path.partition("?")[0])).exists():
        raise NotFoundError(f"there is no database {db!r}; `threadmark chat` makes one, --db names another")
    memory = Memory(url, working_memory=working_memory)
    memory.open_sync()
    return memory


def find_store(db: str, *, must_exist: bool = True) -> Store:
    """The store of a path or URL. With `must_exist` a missing file raises `NotFoundError`."""
    url = storage_url(db)
    scheme, _, path = url.partition(":///")
    if must_exist and scheme == "sqlite" and not Path(unquote(path.partition("?")[0])).exists():
        raise NotFoundError(f"there is no database {db!r}")
    return open_store(url)


def all_users(memory: Memory) -> list[str]:
    """Everybody who owns something, in order."""
    found: list[str] = []
    while page := memory.admin.resources_sync(after=found[-1] if found else "", limit=500):
        found += page
    return found


def day(time: datetime) -> str:
    """ "21 November 2026", in local time."""
    local = time.astimezone()
    return f"{local.day} {local:%B %Y}"


def minute(time: datetime | None) -> str:
    """ "2026-11-21 14:05", in local time."""
    return "" if time is None else f"{time.astimezone():%Y-%m-%d %H:%M}"


def count(number: int, noun: str) -> str:
    """ "1 message", "2 messages"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

"""The options of a PostgreSQL store, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from psycopg import Error
from psycopg.conninfo import conninfo_to_dict

from ..._errors import ConfigurationError
from ..._ids import check_count

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")

REPLICA_WAIT = 2.0
"""Most seconds to wait for a connection to a read replica."""

GRACE = 5.0
"""Seconds beyond `timeout` after which a server that says nothing is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `PostgresStore` was given; see there."""

    conninfo: str
    schema: str
    pool_size: int
    timeout: float
    busy_timeout: float
    connect_timeout: float
    migrate: bool
    row_level_security: bool
    pool: Any = None
    connection: Any = None

    def __post_init__(self) -> None:
        check_schema(self.schema)
        if self.conninfo:
            _check_conninfo(self.conninfo)
        check_count("pool_size", self.pool_size, least=1)
        for name, least in (("timeout", 0.001), ("busy_timeout", 0.001), ("connect_timeout", 1)):
            check_seconds(name, getattr(self, name), least)

    @property
    def borrowed(self) -> bool:
        """Whether connections are the application's, whose sessions we leave as they are."""
        return self.pool is not None or self.connection is not None


def check_seconds(name: str, value: object, least: float) -> None:
    """Raise `ConfigurationError` unless `value` is a time between `least` and a day."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= 86_400:
        raise ConfigurationError(f"{name} must be seconds between {least} and 86400, not {value!r}")


def _check_conninfo(conninfo: str) -> None:
    """Raise `ConfigurationError` for what libpq cannot read, without what may be a part of a password."""
    try:
        found = conninfo_to_dict(conninfo)
    except Error as error:
        told = str(error).strip()
        if "query parameter" not in told:
            told = re.sub(r'".*"', "...", told)
        raise ConfigurationError(f"the PostgreSQL connection string is not valid: {told}") from None
    ports = str(found.get("port") or "").split(",")
    if "@" in str(found.get("host") or "")[1:] or not all(map(_is_port, ports)):
        raise ConfigurationError(
            "the PostgreSQL URL names no valid host and port; in a password, '/', '@', ':', '%' and the like "
            "are written as %2F, %40, %3A and %25"
        )


def _is_port(text: str) -> bool:
    return not text or text.isdecimal()


def check_schema(name: object) -> str:
    """Return `name` if it can name a schema. Raises `ConfigurationError`."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise ConfigurationError(
            "schema must be a letter or underscore, then letters, digits or underscores, at most 63 "
            f"characters, not {name!r}"
        )
    if name.startswith("pg_"):
        raise ConfigurationError(f"schema {name!r}: names that begin with 'pg_' are PostgreSQL's own")
    return name


def name_of(conninfo: str) -> str:
    """Which database, for messages: without user, password or options."""
    try:
        found = conninfo_to_dict(conninfo)
    except Error:
        return "the PostgreSQL database"
    where = found.get("host") or found.get("hostaddr") or "localhost"
    port = f":{found['port']}" if found.get("port") else ""
    return f"PostgreSQL database {found.get('dbname') or 'default'!r} at {where}{port}"

"""From a storage URL to its store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

from .._errors import ConfigurationError
from .base import Store

_EXAMPLES = (
    "'sqlite:///chat.db' (a file), 'sqlite:////var/lib/chat.db' (absolute), 'sqlite://' (memory) or "
    "'postgresql://user@host/database'"
)


def _switch(value: str) -> bool:
    return {"1": True, "true": True, "on": True, "0": False, "false": False, "off": False}[value.lower()]


# What each query parameter of a URL is turned into.
_SQLITE: Mapping[str, Any] = {
    "durability": str,
    "busy_timeout": float,
    "readers": int,
    "driver": str,
    "mode": {"ro": True, "rw": False}.__getitem__,
}
_POSTGRES: Mapping[str, Any] = {
    "schema": str,
    "pool_size": int,
    "timeout": float,
    "busy_timeout": float,
    "connect_timeout": float,
    "migrate": _switch,
    "row_level_security": _switch,
    "read_url": str,
    "read_settle": float,
}


def open_store(url: str) -> Store:
    """The store of a URL; nothing is opened until it is used.

    `sqlite:///relative.db`, `sqlite:////absolute.db` and `sqlite://` (memory), with the options of
    `SQLiteStore` as query parameters: `?durability=full&busy_timeout=60`, and `?mode=ro` for read-only.
    `postgresql://` and `postgres://` as libpq understands them, with the options of `PostgresStore` beside
    libpq's own: `?schema=memory&sslmode=require`. Raises `ConfigurationError` for anything else.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ConfigurationError(f"{url!r} is not a storage URL; use {_EXAMPLES}")
    if scheme == "sqlite":
        return _sqlite(url, rest)
    if scheme in ("postgresql", "postgres"):
        return _postgres(rest)
    raise ConfigurationError(f"there is no store for {scheme!r} URLs; use {_EXAMPLES}")


def _sqlite(url: str, rest: str) -> Store:
    path, _, query = rest.partition("?")
    if path and not path.startswith("/"):
        raise ConfigurationError(f"{url!r} needs three slashes before a file name: 'sqlite:///{path}'")
    name = unquote(path[1:])
    if path and not name:
        raise ConfigurationError(f"{url!r} names no file; for memory write 'sqlite://'")
    options: dict[str, Any] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in _SQLITE:
            raise ConfigurationError(f"unknown option {key!r} in {url!r}; there are {', '.join(_SQLITE)}")
        try:
            options["read_only" if key == "mode" else key] = _SQLITE[key](value)
        except (KeyError, ValueError):
            raise ConfigurationError(f"{key}={value!r} in {url!r} is not a valid value") from None

    from .sqlite import SQLiteStore

    return SQLiteStore(name if name not in ("", ":memory:") else None, **options)


def _postgres(rest: str) -> Store:
    # The URL may hold a password: no message shows it.
    target, _, query = rest.partition("?")
    options: dict[str, Any] = {}
    passed: list[str] = []
    for item in query.split("&") if query else []:
        key, _, value = item.partition("=")
        if key not in _POSTGRES:
            passed.append(item)  # libpq's own, which it checks itself
            continue
        try:
            options[key] = _POSTGRES[key](unquote(value))
        except (KeyError, ValueError):
            raise ConfigurationError(f"{item!r} in the PostgreSQL URL is not a valid value") from None

    from .postgres import PostgresStore

    return PostgresStore(f"postgresql://{target}{'?' if passed else ''}{'&'.join(passed)}", **options)

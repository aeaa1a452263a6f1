"""From the driver's errors to Threadmark's, with what to do about each."""

from __future__ import annotations

from typing import Any

import psycopg

from ..._errors import (
    ConfigurationError,
    ConflictError,
    StoreBusyError,
    StoreError,
    ThreadmarkError,
)

SERIALIZATION = frozenset({"40001", "40P01"})
"""The server undid the transaction because of others'; the same again is safe."""

_CONFIGURATION = {
    "28P01": "the password is wrong for this user",
    "28000": "the server does not let this user in (see its pg_hba.conf)",
    "3D000": "there is no such database; create it, or correct the URL",
    "0A000": "the server or a pooler in front of it does not support what is needed",
}
_STARTUP = (
    ("password authentication failed", "28P01"),
    ("no password supplied", "28P01"),
    ("does not exist", "3D000"),
    ("pg_hba.conf", "28000"),
    ('role "', "28000"),
)


def translate(error: BaseException, where: str) -> BaseException:
    """The Threadmark error for a driver's error; others as they are. `where` names the database."""
    if isinstance(error, ThreadmarkError) or not isinstance(error, psycopg.Error):
        return error
    if (error.sqlstate or "").startswith("TM"):
        return error  # told by a function of ours; who called it knows what it means
    return _caused(_translate(error, where), error)


def _translate(error: Any, where: str) -> ThreadmarkError:
    state = error.sqlstate or ""
    told = _first_line(error)
    if state == "55P03":
        return StoreBusyError(f"{where}: another writer held a lock for longer than `busy_timeout`; retry")
    if state in SERIALIZATION:
        return StoreBusyError(f"{where}: other writers got in the way again and again; retry")
    if state == "57014":
        return StoreError(f"{where}: a statement took longer than `timeout`; nothing of it was stored")
    if state == "42501":
        return StoreError(f"{where}: the user may not do this ({told}); see the grants in docs/postgres.md")
    if state in ("53100", "53200"):
        return StoreError(f"{where} cannot grow: the disk is full, or memory is ({told})")
    if state == "53300":
        return StoreBusyError(f"{where} accepts no more connections ({told}); lower `pool_size`")
    if state == "25006":
        return StoreError(f"{where} is read-only: a standby, or a user who may only read")
    if state in ("23505", "23514"):
        return ConflictError("an id is in use already, or something changed meanwhile; read it again")
    if state in _CONFIGURATION:
        return ConfigurationError(f"{where}: {_CONFIGURATION[state]} ({told})")
    if state.startswith(("08", "57P")) or is_lost(error):
        return StoreError(
            f"{where}: the connection was lost, and whether a write was stored is unknown: {told}"
        )
    return StoreError(f"{where}: {told}")


def startup_error(error: Any, where: str) -> ThreadmarkError:
    """The error for a connection that was refused."""
    told = _first_line(error)
    if isinstance(error, psycopg.errors.ConnectionTimeout):
        made: ThreadmarkError = StoreError(f"{where} did not answer within `connect_timeout`")
    else:
        state = error.sqlstate or next((code for text, code in _STARTUP if text in str(error)), "")
        if state in _CONFIGURATION:
            made = ConfigurationError(f"{where}: {_CONFIGURATION[state]} ({told})")
        elif "invalid" in told and "connection option" in told:
            made = ConfigurationError(f"{where}: {told}")
        elif "too many clients" in told or "remaining connection slots" in told:
            made = StoreBusyError(f"{where} accepts no more connections; lower `pool_size`")
        else:
            made = StoreError(f"{where} cannot be reached: {told}")
    return _caused(made, error)


def is_starting(error: BaseException) -> bool:
    """Whether a server that refused a connection is starting, stopping or recovering just now."""
    told = str(error)
    return "the database system is" in told or "not yet accepting connections" in told


def is_lost(error: BaseException) -> bool:
    """Whether the error means that the connection is no more."""
    if not isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        return False
    state = error.sqlstate
    return state is None or state.startswith("08") or state in ("57P01", "57P02", "57P03", "57P05", "25P03")


def _caused(made: ThreadmarkError, error: BaseException) -> ThreadmarkError:
    made.__cause__ = error
    return made


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    # A failed connection lists an attempt per address; the last line says what the last one met.
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(("CONTEXT", "LINE"))]
    return (lines[0] if lines else type(error).__name__)[:300]

"""Everything in a schema of a PostgreSQL database."""

from . import _driver as _driver
from ._store import PostgresStore

__all__ = ["PostgresStore"]

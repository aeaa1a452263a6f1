"""Everything in a schema of a PostgreSQL database."""

from . import _driver as _driver
from ._policies import policies
from ._recall_indexing import VectorIndex, VectorIndexProgress
from ._store import PostgresStore

__all__ = ["PostgresStore", "VectorIndex", "VectorIndexProgress", "policies"]

"""Says how to install the driver where it is missing; imported before everything that uses it."""

from __future__ import annotations

from ..._errors import ConfigurationError

try:
    import psycopg
    import psycopg_pool
except ImportError as error:
    raise ConfigurationError(
        f"PostgreSQL needs psycopg and its pool: pip install 'threadmark[postgres]' ({error})"
    ) from None

__all__ = ["psycopg", "psycopg_pool"]

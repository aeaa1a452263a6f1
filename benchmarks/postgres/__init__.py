"""Benchmarks of the PostgreSQL store: `python -m benchmarks.postgres URL`."""

"""PostgreSQL, measured: `python -m benchmarks.postgres URL [PART...]`. Without parts, all of them.

    turns    a turn beside a bare psycopg program
    reads    one owner in a database of a million messages beside a small one
    peers    a turn beside @mastra/pg (needs Node.js and npm; the packages are installed and removed again)
    writers  32 writers in each of 4 processes, and what of theirs is there
    churn    what heavy writing leaves behind, before and after VACUUM

It works in schemas of its own, and removes them. CPU is that of the client; times are medians.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import psycopg

from . import churn, peers, reads, turns, writers

PARTS = ("turns", "reads", "peers", "writers", "churn")
SCHEMAS = (turns.SCHEMA, reads.SMALL, reads.LARGE, *peers.SCHEMAS.values(), writers.SCHEMA, churn.SCHEMA)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="benchmarks.postgres"
    )
    parser.add_argument("url")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--owners", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=30.0, help="of the writers")
    parser.add_argument("--turns", type=int, default=20_000, help="of the churn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--modules", type=Path, help="a folder where the npm packages are installed")
    given: Any = parser.parse_args()
    parts = given.parts or PARTS
    drop(given.url)
    try:
        if "turns" in parts:
            turns.run(given.url, given.rounds)
        if "reads" in parts:
            reads.run(given.url, given.messages, given.owners)
        if "peers" in parts:
            peers.run(given.url, given.modules, given.seconds / 10, given.rounds)
        if "writers" in parts:
            writers.run(given.url, given.seconds)
        if "churn" in parts:
            churn.run(given.url, given.turns)
    finally:
        drop(given.url)


def drop(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as db:
        for schema in SCHEMAS:
            db.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


if __name__ == "__main__":
    main()

"""docs/testing.md says what each store offers, by the kit's own count."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from threadmark.stores.postgres import PostgresStore
from threadmark.stores.sqlite import SQLiteStore
from threadmark.testing.conformance import behaviours

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
OFFERED = {
    "SQLite file": SQLiteStore("a.db").capabilities,
    "SQLite in memory": SQLiteStore(None).capabilities,
    "PostgreSQL": PostgresStore("dbname=a").capabilities,
}


def matrix() -> list[str]:
    """A row for each topic: how many behaviours it has, and how many of them each store is put through."""
    found = behaviours()
    topics = Counter([one.topic for one in found])
    lines = [f"| topic | behaviours | {' | '.join(OFFERED)} |", f"|---|---|{'---|' * len(OFFERED)}"]
    for topic, count in topics.items():
        offered = [
            sum([one.topic == topic and one.needs <= offers for one in found]) for offers in OFFERED.values()
        ]
        cells = ["all" if number == count else f"{number}" for number in offered]
        lines.append(f"| {topic} | {count} | {' | '.join(cells)} |")
    return lines


def test_the_matrix_is_up_to_date() -> None:
    """The table is what `python tests/stores/test_matrix.py` prints."""
    assert "\n".join(matrix()) in PAGE.read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.stdout.write("\n".join([*matrix(), ""]))

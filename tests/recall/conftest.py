from __future__ import annotations

from collections.abc import Iterator

import apsw
import pytest
from threadmark.memory.recall import index, vectors
from threadmark.memory.recall.rank import Record


@pytest.fixture
def connection() -> Iterator[apsw.Connection]:
    """A database in memory with the index's tables."""
    db = apsw.Connection(":memory:")
    db.execute("PRAGMA secure_delete = ON")
    db.execute(index.SCHEMA)
    db.execute(vectors.SCHEMA)
    yield db
    db.close()


@pytest.fixture
def talk() -> list[tuple[int, int, str, Record]]:
    """Two threads of two friends: (thread, place, text, record)."""
    day = 86400.0
    start = 19_480 * day  # 3 May 2023
    said = [
        (0, 0, "Ana", "Hey Ben! How was your week?"),
        (0, 1, "Ben", "Busy. I adopted a puppy from the shelter, his name is Biscuit."),
        (0, 2, "Ana", "Oh wow! What does he like to do?"),
        (0, 3, "Ben", "He loves swimming in the lake behind our house."),
        (0, 4, "Ana", "I started a pottery class last Tuesday, the teacher is great."),
        (0, 5, "Ben", "Nice, will you make me a mug?"),
        (1, 0, "Ben", "The vet says Biscuit needs to lose some weight."),
        (1, 1, "Ana", "Poor dog. My kiln broke, so no pottery this month."),
        (1, 2, "Ben", "Is it expensive to repair?"),
        (1, 3, "Ana", "About 1,200 euros, the technician comes on Friday."),
        (1, 4, "Ben", "東京に行きたい。 I want to go to Japan."),
    ]
    return [
        (thread, seq, text, Record("user", speaker, start + thread * 90 * day))
        for thread, seq, speaker, text in said
    ]

"""Copying the recall index of a database: whether it is on, its embedders' spaces, and their vectors.

The words of messages are indexed anew where they are written; vectors are copied, for making them again takes
the embedder and may cost money. What had none yet waits for them on the other side too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from ..._codec import to_json
from ..._errors import ConfigurationError, StoreError
from ..._ids import now
from ..base import Store
from ._tables import Row, Tables, TableStore

SLICE = 500
"""Messages whose vectors are read at once."""

Vectors: TypeAlias = dict[str, dict[int, list[bytes]]]
"""By space and by place."""

Look: TypeAlias = Callable[[Tables, Sequence[int]], list[Row]]
"""Place, key in the index and text of what is at these places in one store."""


async def prepare(source: Store, target: Store) -> tuple[list[str], list[str]]:
    """Switch recall on as it is in the source; the spaces to be copied, and why others cannot be."""
    if "recall" not in source.capabilities & target.capabilities:
        return [], []
    here = await source.recall_state()
    if not here.enabled:
        return [], []
    there = await target.recall_state()
    if not there.complete:
        # An index that the target has keeps its language: it is that of its other owners too.
        await target.enable_recall(now(), language=None if there.enabled else here.language)
        while not (await target.backfill_recall()).finished:
            pass
    spaces, left = [], []
    for space in here.spaces:
        try:
            await target.add_space(space.name, space.dimension, now())
            spaces.append(space.name)
        except ConfigurationError as error:
            left.append(f"vectors of {space.name!r}: {error}")
    return spaces, left


async def copy_vectors(
    here: TableStore,
    there: TableStore,
    spaces: Sequence[str],
    owner: str,
    texts: Sequence[tuple[int, str]],
    looks: tuple[Look, Look],
) -> tuple[int, str]:
    """Copy the vectors of messages or of observations; how many, and a checksum.

    `texts` holds the place and the text of what was copied: what has another text since is left to wait.
    """
    sums = hashlib.blake2b(digest_size=16)
    count = 0
    for first in range(0, len(texts), SLICE):
        batch = dict(texts[first : first + SLICE])
        wanted = await here.read_tables(
            lambda db, b=batch: _read(db, here, owner, looks[0], b, spaces)  # type: ignore[misc]
        )
        if await _lacks(there, owner, looks[1], batch, wanted):
            await there.write_tables(
                lambda db, b=batch, w=wanted: _write(db, there, owner, looks[1], b, w),  # type: ignore[misc]
                owner=owner,
            )
            if await _lacks(there, owner, looks[1], batch, wanted):
                raise StoreError(f"vectors of {owner!r} do not read back as they were written")
        for space, by_place in sorted(wanted.items()):
            for place, vectors in sorted(by_place.items()):
                sums.update(f"{space}\x00{place}\x00{len(vectors)}\x00".encode())
                sums.update(b"".join(vectors))
                count += len(vectors)
    return count, sums.hexdigest()


def of_messages(owner: str, number: int) -> Look:
    """How to find messages of thread `number`, whose places are their `seq`."""
    base = number << 32

    def look(db: Tables, places: Sequence[int]) -> list[Row]:
        return db.execute(
            "SELECT seq, key, parts FROM messages WHERE resource_id = ? AND key BETWEEN ? AND ?",
            (owner, base + min(places), base + max(places)),
        )

    return look


def of_observations(owner: str) -> Look:
    """How to find observations, whose places are their numbers; their keys in the index are negative."""

    def look(db: Tables, places: Sequence[int]) -> list[Row]:
        return db.execute(
            "SELECT o.number, -o.key, o.text FROM observations AS o WHERE o.resource_id = ? "
            "AND o.number IN (SELECT value FROM json_each(?))",
            (owner, to_json(list(places))),
        )

    return look


async def _lacks(
    store: TableStore, owner: str, look: Look, batch: Mapping[int, str], wanted: Vectors
) -> bool:
    """Whether a store lacks any of these vectors."""
    if not wanted:
        return False
    found = await store.read_tables(lambda db: _read(db, store, owner, look, batch, list(wanted)))
    return any(
        found.get(space, {}).get(place) != vectors
        for space, by_place in wanted.items()
        for place, vectors in by_place.items()
    )


def _keys(db: Tables, look: Look, batch: Mapping[int, str]) -> dict[int, int]:
    """Places by key, of what has the same text."""
    return {key: place for place, key, text in look(db, list(batch)) if batch.get(place) == text}


def _read(
    db: Tables, store: TableStore, owner: str, look: Look, batch: Mapping[int, str], spaces: Sequence[str]
) -> Vectors:
    places = _keys(db, look, batch)
    found: Vectors = {}
    for space, key, vector in store.vectors(db, owner, list(places)):
        if space in spaces:
            found.setdefault(space, {}).setdefault(places[key], []).append(vector)
    return found


def _write(
    db: Tables, store: TableStore, owner: str, look: Look, batch: Mapping[int, str], wanted: Vectors
) -> None:
    keys = {place: key for key, place in _keys(db, look, batch).items()}
    for space, by_place in wanted.items():
        store.embeds(
            db, owner, space, {keys[place]: vectors for place, vectors in by_place.items() if place in keys}
        )

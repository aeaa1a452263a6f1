"""Copying the recall index of a database: whether it is on, its embedders' spaces, and their vectors.

The words of messages are indexed anew where they are written; vectors are copied, for making them again takes
the embedder and may cost money. What had none yet waits for them on the other side too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeAlias

from ..._errors import ConfigurationError, StoreError
from ..._ids import now
from ..base import Store
from ._tables import Row, Tables, TableStore

SLICE = 500
"""Messages whose vectors are read at once."""

Vectors: TypeAlias = dict[str, dict[int, list[bytes]]]
"""By space and by place in the thread."""


async def prepare(source: Store, target: Store) -> tuple[list[str], list[str]]:
    """Switch recall on as it is in the source; the spaces to be copied, and why others cannot be."""
    if "recall" not in source.capabilities & target.capabilities:
        return [], []
    here = await source.recall_state()
    if not here.enabled:
        return [], []
    if not (await target.recall_state()).complete:
        await target.enable_recall(now())
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
    numbers: tuple[int, int],
    messages: Sequence[Row],
) -> tuple[int, str]:
    """Copy the vectors of a thread, by its numbers in the source and the target; how many, and a checksum.

    `messages` hold the place and the parts of what was copied: what has changed since is left to wait.
    """
    sums = hashlib.blake2b(digest_size=16)
    count = 0
    for first in range(0, len(messages), SLICE):
        batch: dict[int, str] = dict(messages[first : first + SLICE])
        span = (min(batch), max(batch))
        parts, found = await here.read_tables(
            lambda db, s=span: _read(db, here, owner, numbers[0], s)  # type: ignore[misc]
        )
        wanted = _only(found, spaces, {seq for seq, text in parts.items() if batch.get(seq) == text})
        if await there.read_tables(lambda db, s=span, w=wanted: _missing(db, there, owner, numbers[1], s, w)):  # type: ignore[misc]
            await there.write_tables(
                lambda db, w=wanted: _write(db, there, owner, numbers[1], w),  # type: ignore[misc]
                owner=owner,
            )
            if await there.read_tables(
                lambda db, s=span, w=wanted: _missing(db, there, owner, numbers[1], s, w)  # type: ignore[misc]
            ):
                raise StoreError(f"vectors of a thread of {owner!r} do not read back as they were written")
        for space, by_seq in sorted(wanted.items()):
            for seq, vectors in sorted(by_seq.items()):
                sums.update(f"{space}\x00{seq}\x00{len(vectors)}\x00".encode())
                sums.update(b"".join(vectors))
                count += len(vectors)
    return count, sums.hexdigest()


def _read(
    db: Tables, store: TableStore, owner: str, number: int, span: tuple[int, int]
) -> tuple[dict[int, str], Vectors]:
    base = number << 32
    keys = (base + span[0], base + span[1])
    parts = db.execute(
        "SELECT seq, parts FROM messages WHERE resource_id = ? AND key BETWEEN ? AND ?", (owner, *keys)
    )
    found: Vectors = {}
    for space, key, vector in store.vectors(db, owner, *keys):
        found.setdefault(space, {}).setdefault(key - base, []).append(vector)
    return dict(parts), found


def _only(found: Vectors, spaces: Sequence[str], seqs: set[int]) -> Vectors:
    return {
        space: kept
        for space in spaces
        if (kept := {seq: vectors for seq, vectors in found.get(space, {}).items() if seq in seqs})
    }


def _missing(
    db: Tables, store: TableStore, owner: str, number: int, span: tuple[int, int], wanted: Vectors
) -> bool:
    """Whether the target lacks any of these."""
    _, found = _read(db, store, owner, number, span)
    return any(
        found.get(space, {}).get(seq) != vectors
        for space, by_seq in wanted.items()
        for seq, vectors in by_seq.items()
    )


def _write(db: Tables, store: TableStore, owner: str, number: int, wanted: Vectors) -> None:
    base = number << 32
    for space, by_seq in wanted.items():
        store.embeds(db, owner, space, {base + seq: vectors for seq, vectors in by_seq.items()})

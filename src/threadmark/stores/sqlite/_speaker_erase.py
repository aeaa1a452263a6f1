"""Forgetting one speaker of a thread. The statements are spoken to PostgreSQL too (`_dialect`).

Everything but the messages' own rows, which their module deletes afterwards, in the same transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..._codec import time_to_text, to_json
from ..._ids import check_id, check_text
from ..._types import ErasureReceipt
from ..base import SpeakerErasure
from . import _observation_changes, _threads, _working
from ._driver import Connection
from ._rows import SEQ_BITS

_IN = "IN (SELECT value FROM json_each(?))"
_SEQ = (1 << SEQ_BITS) - 1


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is left to do: the messages to delete; and what the receipt says."""

    ids: tuple[str, ...]
    receipt: ErasureReceipt


def prepare(db: Connection, owner: str, erasure: SpeakerErasure) -> Prepared:
    """Remove all but the messages themselves."""
    speaker, thread_id = check_id("speaker", erasure.speaker_id), check_id("thread", erasure.thread_id)
    thread = _threads.find(db, owner, thread_id)
    removed: Counter[str] = Counter()
    ids: tuple[str, ...] = ()
    if thread is not None:
        number = thread[0]
        rows = db.execute(
            "SELECT key, id, run_id FROM messages "
            "WHERE resource_id = ? AND thread_id = ? AND speaker_id = ? ORDER BY key",
            (owner, thread_id, speaker),
        )
        ids = tuple([row[1] for row in rows])
        keys = [row[0] for row in rows]
        removed["messages"] = len(ids)
        removed["recall_docs"] = db.execute(
            f"SELECT count(*) FROM recall_docs WHERE key {_IN}", (to_json(keys),)
        )[0][0]
        removed["observations"] = _forget_notes(db, number, keys, speaker)
        runs = sorted({row[2] for row in rows if row[2] is not None})
        _empty_runs(db, owner, number, runs, time_to_text(erasure.now))
        elsewhere = db.execute(
            "SELECT 1 FROM messages WHERE resource_id = ? AND speaker_id = ? AND thread_id <> ? LIMIT 1",
            (owner, speaker, thread_id),
        )
        runs += _jobs(db, number, [key & _SEQ for key in keys])
        at, of_owner = time_to_text(erasure.now), None if elsewhere else erasure.clean
        for of, clean in ((number, erasure.clean), (_working.OF_RESOURCE, of_owner)):
            removed["working_memory"] += _forget_versions(db, owner, of, runs, clean, at)
        db.execute(
            "UPDATE threads SET title = '', title_source = NULL, version = version + 1 "
            "WHERE number = ? AND title_source = 'generated'",
            (number,),
        )
    receipt = ErasureReceipt(
        resource_id=owner,
        thread_id=thread_id,
        speaker_id=speaker,
        removed={table: count for table, count in removed.items() if count},
        scrubbed=False,
        erased_at=erasure.now,
    )
    return Prepared(ids, receipt)


def _jobs(db: Connection, number: int, seqs: Sequence[int]) -> list[str]:
    """Jobs that read messages of the speaker: an observer may keep working memory."""
    rows = db.execute("SELECT id, from_seq, to_seq FROM observation_jobs WHERE thread_number = ?", (number,))
    return [id_ for id_, first, last in rows if any(first <= seq <= last for seq in seqs)]


def _forget_notes(db: Connection, number: int, keys: Sequence[int], speaker: str) -> int:
    """Remove what was noted of the speaker's messages, and what is said to be of the speaker without them."""
    of_speaker = [
        key
        for (key,) in db.execute(
            "SELECT key FROM observations WHERE thread_number = ? AND speaker_id = ?", (number, speaker)
        )
    ]
    return _observation_changes.forget(
        db, number, [key & _SEQ for key in keys], gone=True, besides=of_speaker
    )


def _empty_runs(db: Connection, owner: str, number: int, runs: Sequence[str], now: str) -> None:
    """Keep of the speaker's turns that they were, and what they cost. One that waits cannot go on."""
    db.execute(
        "UPDATE runs SET state = NULL, error = NULL, expires_at = NULL, version = version + 1, "
        "finished_at = coalesce(finished_at, ?), "
        "status = CASE WHEN status IN ('running', 'suspended') THEN 'aborted' ELSE status END "
        f"WHERE resource_id = ? AND thread_number = ? AND id {_IN}",
        (now, owner, number, to_json(list(runs))),
    )


def _forget_versions(
    db: Connection,
    owner: str,
    number: int,
    runs: Sequence[str],
    clean: Callable[[str], str] | None,
    now: str,
) -> int:
    """Remove the versions of a working memory that the speaker's turns made, and clean the others.

    If the newest goes, the newest of the others is current again, as a version of its own.
    """
    of = "FROM working_memory WHERE resource_id = ? AND thread_number = ?"
    before = db.execute(f"SELECT version, run_id {of} ORDER BY version", (owner, number))
    doomed = [version for version, run in before if run is not None and run in set(runs)]
    db.execute(f"DELETE {of} AND version {_IN}", (owner, number, to_json(doomed)))
    left = db.execute(f"SELECT version, content {of} ORDER BY version", (owner, number))
    content = ""
    for version, content in left:
        kept = content if clean is None else check_text("working memory", clean(content))
        if kept != content:
            db.execute(
                "UPDATE working_memory SET content = ? "
                "WHERE resource_id = ? AND thread_number = ? AND version = ?",
                (kept, owner, number, version),
            )
        content = kept
    if doomed and left and doomed[-1] == before[-1][0]:
        db.execute(
            "INSERT INTO working_memory (resource_id, thread_number, version, content, changed_by, run_id, "
            "created_at) VALUES (?, ?, ?, ?, 'erasure', NULL, ?)",
            (owner, number, doomed[-1] + 1, content, now),
        )
    return len(doomed)

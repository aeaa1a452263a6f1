"""SQL of turns. Every function runs inside a transaction that the engine opened."""

from __future__ import annotations

from ..._codec import from_json, time_from_text, to_json
from ..._errors import NotFoundError
from ..._ids import check_id, check_metadata
from ..._types import Message, WorkingMemoryVersion
from ..base import NewThread, TurnQuery, TurnReceipt, TurnState, TurnWrite, Window
from . import _messages, _observations, _recall, _runs, _threads, _working
from ._driver import Connection, Row
from ._rows import first_key, thread_from_row


def read(db: Connection, owner: str, query: TurnQuery) -> TurnState:
    row = _threads.find(db, owner, query.thread_id)
    history: list[Message] = []
    known: dict[str, Message] = {}
    if row is not None:
        if query.last is None:
            history = _messages.newest(db, row[0], None)
        elif query.last:
            if query.slack:
                history = _messages.newest(db, row[0], query.last + query.slack, row[14])
            if len(history) < query.last:
                history = _messages.newest(db, row[0], query.last)
    if query.known_ids:
        found = _messages.by_ids(db, owner, query.known_ids, None, 0, 0)
        known = {message.id: message for message in found}
    return TurnState(
        thread=None if row is None else thread_from_row(row),
        history=tuple(history),
        known=known,
        run=None if query.run_id is None else _runs.get(db, owner, query.run_id),
        working_memory=_working_memory(db, owner, query, row, None),
        window=Window()
        if row is None
        else Window(seq=row[14], memory=row[15], fingerprint=row[16], counted=row[17]),
        observations=_observations.read(db, owner, query.observations) if query.observations else None,
        shown_memory=_working_memory(db, owner, query, row, row[15]) if row and row[15] else None,
    )


def _working_memory(
    db: Connection, owner: str, query: TurnQuery, thread: Row | None, version: int | None
) -> WorkingMemoryVersion | None:
    if query.working_memory == "resource":
        versions = _working.newest(db, owner, _working.OF_RESOURCE, None, 1, version)
    elif query.working_memory == "thread" and thread is not None:
        versions = _working.newest(db, owner, thread[0], query.thread_id, 1, version)
    else:
        versions = []
    return versions[0] if versions else None


def write(db: Connection, owner: str, turn: TurnWrite) -> TurnReceipt:
    row = _threads.find(db, owner, turn.thread_id)
    created = row is None
    if row is None:
        if not turn.create:
            raise NotFoundError(f"thread {turn.thread_id!r} does not exist")
        check_id("resource", owner)
        _threads.insert(
            db,
            owner,
            NewThread(id=turn.thread_id, title=turn.title, metadata=turn.metadata, created_at=turn.now),
        )
        row = _threads.need(db, owner, turn.thread_id)
    number, metadata, version = row[0], row[5], row[10]
    if turn.metadata and not created:
        merged = {**from_json(metadata), **check_metadata(turn.metadata)}
        if (text := to_json(merged)) != metadata:
            metadata, version = text, version + 1
    batch = [message for message in turn.messages if message.role != "system"]
    run_id = None if turn.run is None else turn.run.id
    placed, added = _messages.save(db, owner, turn.thread_id, number, row[9], batch, turn.now, run_id)
    stored = [
        Message.stored(
            message.id,
            message.role,
            message.parts,
            message.speaker,
            message.metadata,
            time_from_text(at),
            seq,
            turn.thread_id,
            run_id if message.run_id is None else message.run_id,
        )
        for message, (seq, at) in zip(batch, placed, strict=True)
    ]
    keys = [first_key(number) + seq for seq, _ in placed]
    _recall.wrote(db, owner, zip(keys, stored, strict=True), turn.now)
    updated = _threads.later(row, turn.now)
    window = row[14:18]
    if turn.window is not None:
        window = (turn.window.seq, turn.window.memory, turn.window.fingerprint, turn.window.counted)
    db.execute(
        "UPDATE threads SET metadata = ?, updated_at = ?, message_count = ?, last_seq = ?, version = ?, "
        "window_seq = ?, window_memory = ?, window_fingerprint = ?, window_counted = ? WHERE number = ?",
        (metadata, updated, row[8] + added, row[9] + added, version, *window, number),
    )
    run = None if turn.run is None else _runs.write(db, owner, number, turn.thread_id, turn.run)
    if turn.working_memory is not None:
        target = _threads.number_of(db, owner, turn.working_memory.thread_id)
        _working.write(db, owner, target, turn.working_memory, turn.now)
    after = (*row[:5], metadata, row[6], updated, row[8] + added, row[9] + added, version, *row[11:])
    return TurnReceipt(thread=thread_from_row(after), messages=tuple(stored), created=created, run=run)

"""SQL of turns and runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg

from ..._codec import from_json, to_json
from ..._errors import ConflictError, NotFoundError, ThreadmarkError
from ..._ids import check_id, check_metadata, check_text, utc
from ..._types import Message
from ..base import TurnQuery, TurnReceipt, TurnState, TurnWrite, Window, WorkingMemoryWrite
from . import _functions, _messages, _observations, _recall, _runs, _threads, _working
from ._names import Names
from ._rows import (
    THREAD_COLUMNS,
    message_from_row,
    message_to_json,
    moment,
    run_from_row,
    scalars_json,
    thread_from_row,
)
from ._session import Row, Session, Statement

MOST = 2**63 - 1
"""Greatest version that the database can hold."""

_WIDTH = len(THREAD_COLUMNS.split(", "))


def read(names: Names, owner: str, query: TurnQuery) -> tuple[list[Statement], Callable[..., TurnState]]:
    """The statements that read a turn, and what makes its state of their rows."""
    wanted: dict[str, Statement] = {"thread": _threads.find(names, owner, query.thread_id)}
    if query.last is None or query.last:
        wanted["history"] = _messages.newest(names, owner, query.thread_id, query.last, query.slack)
    if query.known_ids:
        wanted["known"] = _messages.by_ids(names, owner, query.known_ids, None)
    if query.run_id is not None:
        wanted["run"] = _runs.find(names, owner, query.run_id)
    of_thread = query.working_memory == "thread"
    if query.working_memory is not None:
        scope = query.thread_id if of_thread else None
        wanted["memory"] = _working.newest(names, owner, scope, 1)
        wanted["shown"] = _working.shown(names, owner, query.thread_id, of_thread)

    def make(*answers: list[Row]) -> TurnState:
        rows = dict(zip(wanted, answers, strict=True))
        row = rows["thread"][0] if rows["thread"] else None
        scope = query.thread_id if of_thread else None
        memory = _working.from_rows(rows.get("memory", []), owner, scope)
        shown = _working.from_rows(rows.get("shown", []), owner, scope)
        known = [message_from_row(found) for found in rows.get("known", [])]
        return TurnState(
            thread=None if row is None else thread_from_row(row),
            history=tuple(_messages.oldest_first(rows.get("history", []))),
            known={message.id: message for message in known},
            run=run_from_row(rows["run"][0]) if rows.get("run") else None,
            working_memory=memory[0] if memory else None,
            window=Window()
            if row is None
            else Window(seq=row[14], memory=row[15], fingerprint=row[16], counted=row[17]),
            shown_memory=shown[0] if shown else None,
        )

    return list(wanted.values()), make


class Write:
    """A turn on its way into the database: one statement, or two round trips when metadata is merged."""

    def __init__(self, names: Names, owner: str, turn: TurnWrite) -> None:
        self._names = names
        self._owner = check_id("resource", owner)
        self._turn = turn
        self._thread_id = check_id("thread", turn.thread_id)
        self._metadata = check_metadata(turn.metadata)
        self._run_id = None if turn.run is None else turn.run.id
        self._now = utc("now", turn.now)
        self._title = check_text("title", turn.title)
        self._batch = [message for message in turn.messages if message.role != "system"]
        self._terms: tuple[str, list[dict[str, int]]] | None = None
        self.recall: str | None = None
        """The language of the messages' terms, which are sent along; `None` for none."""
        self.observed = False
        """Whether what was noted about messages that change has to go, in `careful`."""
        self._rows = [message_to_json(message, self._now, self._run_id) for message in self._batch]
        self._run = None if turn.run is None else _runs.to_json_text(turn.run)
        self._memory = None if turn.working_memory is None else memory_to_json(turn.working_memory)
        self._window = (
            None
            if turn.window is None
            else json.dumps(
                {
                    "seq": turn.window.seq,
                    "memory": turn.window.memory,
                    "fingerprint": turn.window.fingerprint,
                    "counted": turn.window.counted,
                }
            )
        )

    def statement(self, merged: tuple[str, str | None] | None = None, *, alone: bool = True) -> Statement:
        """The call; `merged` is the metadata and its scalars for a thread that exists.

        `alone` says that the thread is new, or its metadata need not be merged.
        """
        metadata: str | None
        filtered: str | None
        if merged is not None:
            metadata, filtered = merged
        elif self._metadata and alone:
            metadata, filtered = to_json(self._metadata), scalars_json(self._metadata)
        else:
            metadata, filtered = None, None
        return (
            f"SELECT {_OF_THREAD}, w.created, w.seqs, w.times FROM {self._names.write_turn}("
            "%s, %s, %s, %s, %s, %s, %s::jsonb, %s, %s::json, %s, %s, %s::json, %s::json, %s::json) AS w",
            (
                self._owner,
                self._thread_id,
                self._now,
                self._turn.create,
                self._title,
                metadata,
                filtered,
                merged is not None,
                json.dumps(self._with_terms(), ensure_ascii=False, separators=(",", ":")),
                self.recall,
                self.observed,
                self._run,
                self._memory,
                self._window,
            ),
        )

    def _with_terms(self) -> list[dict[str, Any]]:
        if self.recall is None:
            return self._rows
        if self._terms is None or self._terms[0] != self.recall:
            self._terms = self.recall, [_recall.terms_of(message, self.recall) for message in self._batch]
        return [{**row, "terms": terms} for row, terms in zip(self._rows, self._terms[1], strict=True)]

    def careful(self, db: Session) -> TurnReceipt:
        """Write in a transaction that locks the thread first, and merges the metadata."""
        statements = [_threads.find(self._names, self._owner, self._thread_id, _threads.LOCKED)]
        memory = self._turn.working_memory
        if memory is not None and memory.thread_id is None:
            statements.insert(0, _threads.lock_owner(self._names, self._owner))
        rows = db.together(statements)[-1]
        if not rows:
            return self.receipt(db.together([self.statement()], last=True)[0])
        if self.observed:
            self._forget(db, rows[0][0])
        old = from_json(rows[0][5])
        merged = {**old, **self._metadata}
        text = to_json(merged)
        changed = None if text == rows[0][5] else (text, scalars_json(merged))
        return self.receipt(db.together([self.statement(changed, alone=False)], last=True)[0])

    def _forget(self, db: Session, number: int) -> None:
        """Remove what was noted about messages whose content changes."""
        stored = {
            id_: (seq, content)
            for id_, seq, *content in db.rows(
                f"SELECT id, seq, role, speaker_id, parts FROM {self._names.messages} "
                "WHERE resource_id = %s AND id = ANY(%s) AND thread_id = %s",
                (self._owner, [row["id"] for row in self._rows], self._thread_id),
            )
        }
        changed = {
            stored[row["id"]][0]
            for row in self._rows
            if row["id"] in stored
            and stored[row["id"]][1] != [row["role"], row.get("speaker_id"), row["parts"]]
        }
        _observations.forget(db, self._names, number, sorted(changed), gone=False)

    def receipt(self, rows: list[Row]) -> TurnReceipt:
        row = rows[0]
        created, seqs, times = row[_WIDTH:]
        turn, run_id = self._turn, self._run_id
        at = self._now
        return TurnReceipt(
            thread=thread_from_row(row),
            messages=tuple(
                [
                    Message.stored(
                        message.id,
                        message.role,
                        message.parts,
                        message.speaker,
                        message.metadata,
                        (message.created_at or at) if times is None else moment(times[place]),
                        seqs[place],
                        turn.thread_id,
                        run_id if message.run_id is None else message.run_id,
                    )
                    for place, message in enumerate(self._batch)
                ]
            ),
            created=created,
            run=None if turn.run is None else _runs.as_stored(turn.run, turn.thread_id),
        )

    def refused(self, error: psycopg.Error) -> ThreadmarkError | None:
        """What an error of the function means; `None` for one that is not the function's."""
        state, told = error.sqlstate, error.diag.message_primary
        if state == _functions.NO_THREAD:
            return NotFoundError(f"thread {told!r} does not exist")
        if state == _functions.ELSEWHERE:
            return ConflictError(f"message id {told!r} is in use in another of the owner's threads")
        if state == _functions.RUN_EXISTS:
            return ConflictError(f"run {told!r} exists already")
        if state == _functions.RUN_CHANGED:
            return ConflictError(f"run {told!r} was changed by somebody else")
        if state == _functions.MEMORY_CHANGED:
            memory = self._turn.working_memory
            return _working.changed(told, memory.if_version if memory else 0)
        return None


_OF_THREAD = ", ".join([f"(w.thread).{column}" for column in THREAD_COLUMNS.split(", ")])


def memory_to_json(write: WorkingMemoryWrite) -> str:
    """The columns of a version of working memory, for the function."""
    if not 0 <= write.if_version < MOST:
        raise ConflictError(f"working memory has no version {write.if_version}; read it again")
    return json.dumps(
        {
            "thread": None if write.thread_id is None else check_id("thread", write.thread_id),
            "content": check_text("working memory", write.content),
            "if_version": write.if_version,
            "changed_by": check_text("changed_by", write.changed_by),
            "run_id": None if write.run_id is None else check_id("run", write.run_id),
        },
        ensure_ascii=False,
    )

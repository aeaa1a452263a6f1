"""Runs that are open: those that wait for a person, and those whose process may have died.

A running run has a lease, which its process renews. One whose lease has run out has no process any more. If
it was paused before, it can be gone on with: it waits again, and what was begun and not confirmed is closed
as unknown. Any other is over.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from .._codec import time_to_text
from .._errors import NotFoundError
from .._types import FinishReason, Json, Message, Part, Run, RunPage, RunStatus, ToolPart
from ..stores.base import MessageQuery, RunWrite, Store, TurnWrite

LEASE = 120.0
"""Seconds without a sign of life after which the process of a running run counts as dead."""

HANDED = "handed"
"""Where the state of a run keeps the id of the run that took its input, as the answer to a question."""

DIED = "its process died; what it did is unknown"
EXPIRED = "nobody decided in time"
UNKNOWN = "The call was begun, and its process died. Whether it took effect is unknown."


def has_lapsed(run: Run, now: datetime) -> bool:
    """Whether a run that is not over counts as over: its lease or its time to be answered has run out."""
    return run.status in ("running", "suspended") and run.expires_at is not None and run.expires_at <= now


def is_waiting(part: Part) -> bool:
    """Whether `part` is a call that waits for a person's decision or answer."""
    return (
        isinstance(part, ToolPart)
        and part.state == "call"
        and part.pause is not None
        and "decision" not in part.pause
    )


def delegates(part: Part) -> bool:
    """Whether `part` is a call whose sub-agent waits for a person."""
    return is_waiting(part) and isinstance(part, ToolPart) and (part.pause or {})["kind"] == "delegation"


def is_unknown(part: Part) -> bool:
    """Whether `part` is a call that may or may not have taken effect."""
    return isinstance(part, ToolPart) and part.state == "interrupted" and part.error == UNKNOWN


def digest_of(tool_name: str, args: Json) -> str:
    """What identifies a call's tool and exact arguments."""
    return _digest(tool_name, args)


def _digest(*values: Json) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), default=dict)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def seals_of(parts: Sequence[Part]) -> dict[str, Json]:
    """What identifies each open call of `parts` exactly: its tool, arguments and what was decided, by its id.

    It is stored with the run, where only runs write. Messages can be changed by whoever may write in the
    thread, so a call is made only if it is as its run stored it.
    """
    return {
        part.tool_call_id: _digest(part.tool_name, part.args, part.pause)
        for part in parts
        if isinstance(part, ToolPart) and part.state == "call" and not part.provider_executed
    }


def is_as_stored(run: Run, parts: Sequence[Part]) -> bool:
    """Whether the open calls of `parts` are as `run` stored them."""
    known = (run.state or {}).get("calls", {})
    return all(known.get(id_) == seal for id_, seal in seals_of(parts).items())


def paused_record(before: Mapping[str, Json], message: Message, step: int, at: datetime) -> dict[str, Json]:
    """The stored state of a run that waits for calls of `message`."""
    record = {**before, "message": message.id, "step": step, "calls": seals_of(message.parts)}
    return {**record, "at": time_to_text(at)}


def decided(call: ToolPart, decision: str, at: str, **facts: Json) -> Mapping[str, Json]:
    """The `pause` of `call` with a decision; facts that are `None` are left out."""
    known = {name: value for name, value in facts.items() if value is not None}
    return {**(call.pause or {}), "decision": decision, "at": at, **known}


async def paused_message(store: Store, owner: str, run: Run) -> Message:
    """The message in which `run` paused. Raises `NotFoundError` if it was deleted."""
    id_ = str((run.state or {}).get("message", ""))
    found = await store.get_messages(owner, [id_], thread_id=run.thread_id) if id_ else []
    if not found:
        raise NotFoundError(f"the message in which run {run.id!r} paused is not there any more")
    return found[0]


async def end_lapsed(store: Store, clock: Callable[[], datetime], owner: str, run: Run) -> Run:
    """Store what became of a lapsed run, and return it.

    Raises `ConflictError` if somebody else changed it meanwhile. A workflow's run is as it was: the workflow
    can go on with it.
    """
    if run.state is not None and "workflow" in run.state:
        return run
    if run.state is None or "message" not in run.state:
        return await close_run(store, clock, owner, run, error=DIED)
    if run.status == "suspended":
        return await close_paused(store, clock, owner, run, "expired", EXPIRED, finish_reason="timeout")
    try:
        message = await paused_message(store, owner, run)
    except NotFoundError:
        return await close_run(store, clock, owner, run, error=DIED)
    parts = [
        replace(part, state="interrupted", error=UNKNOWN)
        if isinstance(part, ToolPart)
        and part.state == "call"
        and not part.provider_executed
        and not is_waiting(part)
        and (part.pause or {}).get("kind") != "delegation"
        else part
        for part in message.parts
    ]
    return await write_run(
        store, clock, owner, run, [message.replace(parts=parts)], status="suspended", state=run.state
    )


async def close_paused(
    store: Store,
    clock: Callable[[], datetime],
    owner: str,
    run: Run,
    decision: str,
    reason: str,
    *,
    finish_reason: FinishReason,
    by: str | None = None,
) -> Run:
    """End a paused run: its waiting calls count as declined, and no model is asked."""
    at = time_to_text(clock())
    try:
        message = await paused_message(store, owner, run)
    except NotFoundError:
        return await close_run(store, clock, owner, run, error=reason, finish_reason=finish_reason)
    parts: list[Part] = []
    for part in message.parts:
        if isinstance(part, ToolPart) and is_waiting(part):
            pause = decided(part, decision, at, by=by)
            part = replace(part, state="denied", error=f"The call was not made: {reason}.", pause=pause)
        parts.append(part)
    return await close_run(
        store, clock, owner, run, [message.replace(parts=parts)], error=reason, finish_reason=finish_reason
    )


async def close_run(
    store: Store,
    clock: Callable[[], datetime],
    owner: str,
    run: Run,
    messages: Sequence[Message] = (),
    *,
    error: str,
    finish_reason: FinishReason = "aborted",
) -> Run:
    """End a run as aborted."""
    claim = (run.state or {}).get("input")
    return await write_run(
        store,
        clock,
        owner,
        run,
        messages,
        status="aborted",
        state=None if claim is None else {"input": claim},
        error=error,
        finish_reason=finish_reason,
        finished_at=clock(),
    )


async def write_run(
    store: Store,
    clock: Callable[[], datetime],
    owner: str,
    run: Run,
    messages: Sequence[Message],
    *,
    status: RunStatus,
    state: Mapping[str, Json] | None,
    error: str | None = None,
    finish_reason: FinishReason | None = None,
    finished_at: datetime | None = None,
) -> Run:
    """Write `run` with another status, and `messages` with it. Raises `ConflictError` if it has changed."""
    receipt = await store.write_turn(
        owner,
        TurnWrite(
            thread_id=run.thread_id,
            now=clock(),
            messages=messages,
            create=False,
            run=RunWrite(
                id=run.id,
                agent=run.agent,
                status=status,
                finish_reason=finish_reason,
                usage=run.usage.to_dict(),
                error=error,
                started_at=run.started_at,
                finished_at=finished_at,
                if_version=run.version,
                state=state,
            ),
        ),
    )
    assert receipt.run is not None
    return receipt.run


class OpenRuns:
    """The runs of a memory that are not over, for whoever goes on with them."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock

    def is_with(self, other: OpenRuns) -> bool:
        """Whether both are in one store object."""
        return self._store is other._store

    async def get(self, owner: str, run_id: str) -> Run | None:
        """A run of any status, or `None`."""
        return await self._store.get_run(owner, run_id)

    async def page(
        self,
        owner: str,
        agent: str,
        status: RunStatus,
        *,
        thread_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        page: int = 0,
        per_page: int | None = None,
    ) -> RunPage:
        """Runs of an agent, newest first."""
        return await self._store.list_runs(
            owner,
            agent=agent,
            status=status,
            thread_id=thread_id,
            since=since,
            until=until,
            page=page,
            per_page=per_page,
        )

    async def parts(self, owner: str, runs: Sequence[Run]) -> dict[str, tuple[Part, ...]]:
        """The parts of the messages in which runs paused, by run id."""
        asked = {str((run.state or {}).get("message", "")): run.id for run in runs}
        asked.pop("", None)
        found = await self._store.get_messages(owner, list(asked)) if asked else []
        return {asked[message.id]: message.parts for message in found}

    async def answer(self, owner: str, run: Run) -> tuple[Message, ...]:
        """The assistant messages of a run, in order."""
        query = MessageQuery(thread_id=run.thread_id, run_id=run.id)
        page = await self._store.list_messages(owner, query)
        return tuple([message for message in page.messages if message.role == "assistant"])

    def has_lapsed(self, run: Run) -> bool:
        """Whether the run's lease, or its time to be answered, is over."""
        return has_lapsed(run, self._clock())

    async def end_lapsed(self, owner: str, run: Run) -> Run:
        """Store what became of a lapsed run. Raises `ConflictError` if somebody else did."""
        return await end_lapsed(self._store, self._clock, owner, run)

    async def cancel(self, owner: str, run: Run, reason: str, by: str | None) -> Run:
        """End a run that waits: its calls count as declined. Raises `ConflictError` if it has changed."""
        return await close_paused(
            self._store, self._clock, owner, run, "cancelled", reason, finish_reason="aborted", by=by
        )

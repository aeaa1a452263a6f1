"""Decisions that come a second time: told as such, wherever the run that they were made in has gone on to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._errors import ApprovalError
from .._types import Message, Run, ToolPart
from ..memory.delegated import delegated_owner
from .pending import PendingCall, pending_calls
from .request_context import RequestContext
from .state import RunState

if TYPE_CHECKING:
    from .agent import Agent
    from .options import TurnSource


@dataclass(frozen=True, slots=True)
class Decided:
    """A call that was decided, of the run or, along the delegating calls `via`, of one below it."""

    part: ToolPart
    via: tuple[str, ...]


async def refuse_repeated(
    agent: Agent,
    source: TurnSource,
    owner: str,
    run: Run,
    state: RunState,
    targets: Sequence[str | PendingCall],
) -> None:
    """Raise `ApprovalError` for a target that was decided before, in an earlier message or a sub-agent.

    Also for an id that the run has given to such a call and to one that waits: providers may count ids anew.
    What the run's own message says of its calls is looked at by whoever applies the decision.
    """
    waiting = [(call.via, call.tool_call_id) for call in pending_calls(state.parts)]
    own = {part.tool_call_id for part in state.parts if isinstance(part, ToolPart)}
    found: list[Decided] | None = None
    for target in targets:
        id_ = target if isinstance(target, str) else target.tool_call_id
        if isinstance(target, PendingCall) and (target.via, id_) in waiting:
            continue
        if found is None:
            context = state.plan.request_context
            found = await _walk(agent, source, owner, run, context, (), state.message_id)
        same = [call for call in found if call.part.tool_call_id == id_]
        if isinstance(target, PendingCall):
            same = [call for call in same if call.via == target.via]
        elif id_ in own or any(waits == id_ for _, waits in waiting):
            if any(not call.via for call in same):
                raise ApprovalError(
                    f"several calls of the run have the id {id_!r}, and one is decided already; decide with "
                    "the PendingCall"
                )
            continue
        if same:
            pause = same[-1].part.pause or {}
            raise ApprovalError(f"call {id_!r} is decided already: {pause.get('decision')}")


async def _walk(
    agent: Agent,
    source: TurnSource,
    owner: str,
    run: Run,
    context: RequestContext,
    via: tuple[str, ...],
    skip: str | None,
) -> list[Decided]:
    """The decided calls of a run and of those below it; not those of the message `skip`."""
    from .below import source_below

    messages = await source.open_runs.answer(owner, run)
    found = [
        Decided(part, via)
        for part in _calls([message for message in messages if message.id != skip])
        if "decision" in (part.pause or {})
    ]
    for part in _calls(messages):
        pause = part.pause or {}
        key = str(pause.get("agent"))
        below = agent._team.agents.get(key) if pause.get("kind") == "delegation" else None
        if below is None or pause.get("resource") != delegated_owner(owner, key):
            continue  # a message can be changed, so it is not followed to anybody else's
        theirs, run_id = str(pause["resource"]), str(pause.get("run"))
        memory = await source_below(below, source, context, theirs, run_id)
        inner = await memory.open_runs.get(theirs, run_id)
        if inner is not None and inner.agent == below.name:
            path = (*via, part.tool_call_id)
            found += await _walk(below, memory, theirs, inner, context, path, None)
    return found


def _calls(messages: Sequence[Message]) -> Iterator[ToolPart]:
    for message in messages:
        for part in message.parts:
            if isinstance(part, ToolPart) and part.pause is not None:
                yield part

"""The loop of a run: ask the model, run its tools, ask again; then store the turn, however it ended.

All state of a run is in one `RunState`. `generate` and `stream` differ in one thing only: whether there is an
`emit` to tell events to; with it the model is streamed, without it each model call is one request.

Processors (`guards`) may stop the run at any hook; then nothing of it is stored. What they have not accepted
is neither told nor stored: while they must judge a step, or the whole answer, its events are held back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

from .._codec import usage_from_dict
from .._errors import ModelError, ProcessorError, TripwireError
from .._types import FinishReason, Message, StepPart, TextPart, ToolPart
from ..processors.base import Tripwire
from .answering import AskAgainError
from .asking import ask, tell_parts
from .below import leave_below
from .completing import check_completion
from .ending import commit, make_result, retract, suspend, wind_up, withhold
from .events import StartEvent, StepFinishEvent, StepStartEvent
from .hooks import StepVerdict, judge_step, prepare
from .leases import stop_heartbeat
from .memory_events import tell_status, telling
from .opening import accept, go_on, reopen
from .plan import TimeUpError
from .replay import tell_answer
from .result import AgentResult, answer_reason
from .settle import finish, settle
from .state import RunState
from .streaming import StreamedAnswer
from .titles import tell_title
from .tool_step import keep, run_tools

E = TypeVar("E", bound=BaseException)


async def execute(state: RunState) -> AgentResult:
    """Run to the end and store the turn.

    Raises what made it fail, or the cancellation; the error's `result` is then what there is.
    """
    with telling(state):
        return await _execute(state)


async def _execute(state: RunState) -> AgentResult:
    failure: Exception | None = None
    cancelled: asyncio.CancelledError | None = None
    try:
        await _work(state)
        if state.handed is not None:
            return state.handed
    except TimeUpError:
        state.reason = "timeout"
    except asyncio.CancelledError as error:
        state.reason, cancelled = "aborted", error
    except TripwireError as error:
        state.reason = "tripwire"
        state.tripwire = Tripwire(
            reason=error.reason, processor=error.processor, hook=error.hook, metadata=error.metadata
        )
    except Exception as error:
        if not state.begun:
            raise  # nothing is stored, and no model was asked
        state.reason, failure = "error", error
    finally:
        stop_heartbeat(state)
    saved: Sequence[Message] = ()
    if state.reason != "suspended" and state.is_paused:
        # Sub-agents that wait for a person would wait for a lead that is over.
        _, again = await finish(leave_below(state, f"the run that delegated to it ended: {state.reason}"))
        cancelled = cancelled or again
    if state.reason == "suspended":
        saved, unsaved, late = await suspend(state)
    elif state.resumed and (state.tripwire is not None or isinstance(failure, ProcessorError)):
        withhold(state)
        saved, unsaved, late = await commit(state, failure)
    elif state.tripwire is not None or isinstance(failure, ProcessorError):
        state.parts.clear()
        state.accepted = False
        unsaved, late = await retract(state, failure)
    else:
        wind_up(state, failure)
        saved, unsaved, late = await commit(state, failure)
        late = late or await tell_title(state)
    cancelled = cancelled or late
    result = make_result(state, saved)
    cause = unsaved or failure
    if cancelled is not None:
        raise _with(result, cancelled) from (None if cause is None else _with(result, cause))
    if unsaved is not None:
        raise _with(result, unsaved) from failure
    if failure is not None:
        raise _with(result, failure)
    return result


async def _work(state: RunState) -> None:
    plan = state.plan
    if state.stop is not None:
        state.accepted = state.begun = True
        raise state.stop
    if not state.resumed and plan.hand_over is None:
        _tell_start(state)
    limit = asyncio.timeout_at(plan.deadline)
    try:
        async with limit:
            if state.resumed:
                await reopen(state)
            else:
                await accept(state)
                if plan.hand_over is not None:
                    state.handed = await plan.hand_over(state)
                    if state.handed is not None:
                        return
                    _tell_start(state)
            try:
                if not state.resumed or await _finish_step(state):
                    await _steps(state)
            except (TripwireError, ProcessorError, TimeUpError):
                raise
            except Exception:
                if state.begun:
                    state.close()
                    await _judge(state, retry=False)
                    _tell_judged(state)
                raise
    except TimeoutError:
        if limit.expired():
            raise TimeUpError from None
        raise


def _tell_start(state: RunState) -> None:
    if state.emit is not None:
        plan = state.plan
        state.emit(StartEvent(run_id=plan.run_id, agent=plan.agent, message_id=state.message_id))


async def _steps(state: RunState) -> None:
    plan, guards = state.plan, state.guards
    first = state.step + 1
    for state.step in range(first, plan.max_steps + 1):
        if plan.spending is not None:
            if plan.spending.reached() is not None:  # others of the tree have used it up
                state.step -= 1
                await _end_at_limit(state)
                return
            plan.spending.begin_step()
        state.feedback = []
        if guards is not None:
            guards.facts.step, guards.facts.retries = state.step, 0
        turn = state.turn
        if state.step > 1 and turn is not None and await turn.refresh(plan.model, state.message()):
            state.prompt = plan.prompt(state.input)
        tell_status(state)
        await prepare(state)
        if guards is not None:
            guards.facts.model = state.model.name
        if state.live is not None:
            state.live(StepStartEvent(run_id=plan.run_id, step=state.step, model=state.model.name))
        more = await _one_step(state)
        while more is None:
            more = await _one_step(state)
        if not more:
            return
        await _checkpoint(state)


async def _checkpoint(state: RunState) -> None:
    """Store how far the run is, if it is one that must survive the death of its process."""
    if not state.judged or state.turn is None:
        return
    if state.resumed:
        await keep(state)
    elif state.turn.settings.save_user_first:
        await settle(state.turn.checkpoint(state.message()))


async def _finish_step(state: RunState) -> bool:
    """Make the calls that waited, now that all are decided. Whether another step follows."""
    begun = [index for index in range(len(state.parts)) if state.is_open(index)]
    await run_tools(state, begun, decided=True)
    if state.is_paused:
        await _pause(state)
        return False
    mark = max(index for index, part in enumerate(state.parts) if isinstance(part, StepPart))
    step = state.parts[mark]
    assert isinstance(step, StepPart)
    more = await _goes_on(state, mark, True, "tool-calls")
    if not more:
        state.reason = _reason(state, True, "stop")
        if state.bail is not None:
            _take_bail(state, state.bail)
        await _judge(state, retry=False)
        if state.output is not None:
            await state.output.finish(state)
        _tell_judged(state)
    if state.live is not None:
        state.live(
            StepFinishEvent(
                run_id=state.plan.run_id,
                step=state.step,
                finish_reason="tool-calls",
                is_continued=more,
                usage=usage_from_dict(dict(step.usage or {})),
            )
        )
    if more:
        await go_on(state)
        await _checkpoint(state)
    return more


async def _goes_on(state: RunState, first: int, calls: bool, reason: str) -> bool:
    """Whether another step follows the one whose parts begin at `first`."""
    spending = state.plan.spending
    room = state.step < state.plan.max_steps and state.bail is None
    room = room and (spending is None or spending.reached() is None)
    verdict = await judge_step(state, first, reason, final=not (calls and room))
    state.guidance = None if verdict is None or verdict.stop else verdict.feedback
    if not calls and reason == "stop" and state.bail is None and verdict in (None, StepVerdict()):
        state.guidance = await check_completion(state, first, final=not room)
    return room and (calls or state.guidance is not None) and not (verdict is not None and verdict.stop)


def _reason(state: RunState, calls: bool, reason: FinishReason) -> FinishReason:
    """Why a run ends with this step."""
    if not calls and (state.verdict is None or state.verdict.complete):
        return reason
    if state.step == state.plan.max_steps:
        return "max-steps"
    spending = state.plan.spending
    return "usage-limit" if spending is not None and spending.reached() is not None else "stop"


async def _end_at_limit(state: RunState) -> None:
    """End before a step for which nothing is left."""
    state.reason = "usage-limit"
    await _judge(state, retry=False)
    if state.output is not None:
        await state.output.finish(state)
    _tell_judged(state)


def _take_bail(state: RunState, text: str) -> None:
    """A sub-agent's text ends the run, and is the answer if there is none."""
    state.reason = "stop"
    if text and not state.message().text:
        part = TextPart(text)
        state.parts.append(part)
        if state.live is not None:
            StreamedAnswer(state.plan.run_id, state.step, state.live).tell(len(state.parts), part)


async def _pause(state: RunState) -> None:
    """End here until a person has decided."""
    await _judge(state, retry=False)
    _tell_judged(state)
    state.reason = "suspended"


async def _one_step(state: RunState) -> bool | None:
    """One model call and its tools. Whether another step follows; `None`: this one is to be repeated."""
    plan, guards, mark = state.plan, state.guards, len(state.parts)
    try:
        response, told = await ask(state)
        if guards is not None:
            response = await guards.output_step(response)
        if state.output is not None:
            response = state.output.take(state, response, told=told)
        elif state.live is not None and not told:
            tell_parts(state, response)
        first = state.add(response)
        if response.finish_reason == "error":
            raise ModelError(f"{state.model.name} ended its answer with an error")
        calls = [index for index in range(first, len(state.parts)) if state.is_open(index)]
        if calls:
            await run_tools(state, calls)
            if state.is_paused:
                await _pause(state)
                return False
        reason = answer_reason(response.finish_reason)
        more = await _goes_on(state, first, bool(calls), "tool-calls" if calls else reason)
        if not more:
            state.reason = _reason(state, bool(calls), reason)
            if state.bail is not None:
                _take_bail(state, state.bail)
            await _judge(state, retry=not calls)
            if state.output is not None:
                await state.output.finish(state)
            _tell_judged(state)
    except AskAgainError as error:
        state.feedback = [str(error)]
        return None
    except TripwireError as error:
        if not error.retry or guards is None:
            raise
        guards.facts.retries += 1
        del state.parts[mark:]
        state.feedback.append(error.reason)
        return None
    if state.live is not None:
        state.live(
            StepFinishEvent(
                run_id=plan.run_id,
                step=state.step,
                finish_reason="tool-calls" if calls else reason,
                is_continued=more,
                usage=response.usage,
            )
        )
    return more


async def _judge(state: RunState, *, retry: bool) -> None:
    """Have processors judge the whole answer."""
    if state.guards is not None and state.parts:
        message = await state.guards.output_result(state.message(), retry=retry)
        state.parts, state.metadata = list(message.parts), message.metadata


def _tell_judged(state: RunState) -> None:
    """The answer is accepted: tell of it if it was held back."""
    if state.parts and state.emit is not None and state.hold == "run":
        _tell_decided(state)
        tell_answer(state.message(), state.plan.run_id, state.emit, after=state.told)
        state.told = state.step
    state.judged = True


def _tell_decided(state: RunState) -> None:
    """Tell how the calls ended that a resumed run had to make, if that was held back."""
    made = {part.tool_call_id for part in state.base if isinstance(part, ToolPart) and part.state == "call"}
    for message in (*state.earlier, state.message()):
        for part in message.parts:
            if isinstance(part, ToolPart) and part.tool_call_id in made and part.state != "call":
                made.discard(part.tool_call_id)
                state.tell_now(part)
    state.base = [part for part in state.base if not isinstance(part, ToolPart) or part.state != "call"]


def _with(result: AgentResult, error: E) -> E:
    """`error` with what the run had produced."""
    error.result = result  # type: ignore[attr-defined]
    return error

"""The loop of a run: ask the model, run its tools, ask again; then store the turn, however it ended.

All state of a run is in one `Run`. `generate` and `stream` differ in one thing only: whether there is an
`emit` to tell events to; with it the model is streamed, without it each model call is one request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, get_args

from .._errors import ModelError, StoreError, ThreadmarkError
from .._ids import new_id
from .._types import (
    ErrorPart,
    FinishReason,
    Json,
    Message,
    Part,
    RunStatus,
    StepPart,
    ToolPart,
    Usage,
)
from ..memory import context as memory_context
from ..memory.context.render import interrupted
from ..memory.turn import Turn
from ..models.base import Model, ModelRequest, ModelResponse
from .calls import describe_error, run_calls, sound
from .events import Emit, StartEvent, StepFinishEvent, StepStartEvent, ToolErrorEvent, ToolResultEvent
from .request_context import RequestContext
from .result import AgentResult
from .streaming import StreamedAnswer
from .tools import ToolContext, ToolSet

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

_ONE_REQUEST = Usage(requests=1)
_FINISH_REASONS = frozenset(get_args(FinishReason))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one run was asked to do, every choice made. Seconds; `deadline` by the loop's clock."""

    run_id: str
    agent: str
    model: Model
    tools: ToolSet
    prompt: memory_context.Prompt
    input: Sequence[Message]
    settings: Mapping[str, Json]
    max_steps: int
    tool_concurrency: int
    deadline: float | None
    step_timeout: float | None
    request_context: RequestContext
    claim: bool = False
    """Whether the run's id is the caller's, so that it has to be claimed first."""


class _TimeUpError(Exception):
    """A time limit of the caller's was reached."""


class Run:
    """One run in progress: its plan, its turn (`None` without memory), and what it has produced so far."""

    __slots__ = (
        "_answer",
        "_begun",
        "_emit",
        "_message_id",
        "_parts",
        "_plan",
        "_reason",
        "_step",
        "_turn",
        "_usage",
    )

    def __init__(self, plan: Plan, turn: Turn | None, emit: Emit | None) -> None:
        self._plan = plan
        self._turn = turn
        self._emit = emit
        self._begun = False
        self._message_id = new_id()
        self._parts: list[Part] = []
        self._answer: StreamedAnswer | None = None  # of the model call under way
        self._usage = Usage()
        self._step = 0
        self._reason: FinishReason = "stop"

    async def execute(self) -> AgentResult:
        """Run to the end and store the turn.

        Raises what made it fail, or the cancellation; the error's `result` is then what there is.
        """
        failure: Exception | None = None
        cancelled: asyncio.CancelledError | None = None
        try:
            await self._work()
        except _TimeUpError:
            self._reason = "timeout"
        except asyncio.CancelledError as error:
            self._reason, cancelled = "aborted", error
        except Exception as error:
            if not self._begun:
                raise  # nothing is stored, and no model was asked
            self._reason, failure = "error", error
        self._wind_up(failure)
        saved, unsaved, late = await self._commit(failure)
        cancelled = cancelled or late
        result = self._result(saved)
        cause = unsaved or failure
        if cancelled is not None:
            raise _with(result, cancelled) from (None if cause is None else _with(result, cause))
        if unsaved is not None:
            raise _with(result, unsaved) from failure
        if failure is not None:
            raise _with(result, failure)
        return result

    # -- working -------------------------------------------------------------------------------------

    async def _work(self) -> None:
        plan = self._plan
        if self._emit is not None:
            self._emit(StartEvent(run_id=plan.run_id, agent=plan.agent, message_id=self._message_id))
        if self._turn is not None and plan.claim:
            await settle(self._turn.claim())
        if self._turn is not None and self._turn.settings.save_user_first:
            await settle(self._turn.begin())
        self._begun = True
        limit = asyncio.timeout_at(plan.deadline)
        try:
            async with limit:
                await self._steps()
        except TimeoutError:
            if limit.expired():
                raise _TimeUpError from None
            raise

    async def _steps(self) -> None:
        plan, emit = self._plan, self._emit
        for self._step in range(1, plan.max_steps + 1):
            if emit is not None:
                emit(StepStartEvent(run_id=plan.run_id, step=self._step, model=plan.model.name))
            response = await self._ask()
            first, usage = self._add(response)
            if response.finish_reason == "error":
                raise ModelError(f"{plan.model.name} ended its answer with an error")
            calls = [index for index in range(first, len(self._parts)) if self._is_open(index)]
            if calls:
                await self._run_tools(calls)
            more = bool(calls) and self._step < plan.max_steps
            if emit is not None:
                emit(
                    StepFinishEvent(
                        run_id=plan.run_id,
                        step=self._step,
                        finish_reason="tool-calls" if calls else _reason(response.finish_reason),
                        is_continued=more,
                        usage=usage,
                    )
                )
            if not calls:
                self._reason = _reason(response.finish_reason)
                return
            if more and self._turn is not None and self._turn.settings.save_user_first:
                await settle(self._turn.checkpoint(self._message()))
        self._reason = "max-steps"

    async def _ask(self) -> ModelResponse:
        """One model call. Whatever goes wrong in it is a `ModelError`."""
        plan, model = self._plan, self._plan.model
        request = ModelRequest(
            messages=self._conversation(),
            instructions=plan.prompt.instructions,
            tools=plan.tools.definitions,
            settings=plan.settings,
        )
        limit = asyncio.timeout(plan.step_timeout)
        try:
            async with limit:
                if self._emit is None:
                    return await model.request(request)
                self._answer = StreamedAnswer(plan.run_id, self._step, self._emit)
                return await self._answer.read(model.stream(request))
        except ThreadmarkError:
            raise
        except Exception as error:
            if limit.expired() and isinstance(error, TimeoutError):
                raise _TimeUpError from None
            raise ModelError(f"{model.name} failed: {describe_error(error)}") from error

    def _add(self, response: ModelResponse) -> tuple[int, Usage]:
        """Add a response to the answer. Returns the index of its first part, and what it used."""
        if response.model is None or not response.usage.requests:
            response = replace(
                response,
                model=response.model or self._plan.model.name,
                usage=response.usage if response.usage.requests else response.usage + _ONE_REQUEST,
            )
        self._usage = response.usage if self._step == 1 else self._usage + response.usage
        self._answer = None
        self._parts.append(response.step_part())
        first = len(self._parts)
        self._parts.extend([sound(part) if isinstance(part, ToolPart) else part for part in response.parts])
        return first, response.usage

    # -- tools ---------------------------------------------------------------------------------------

    def _is_open(self, index: int) -> bool:
        part = self._parts[index]
        return isinstance(part, ToolPart) and part.state == "call" and not part.provider_executed

    async def _run_tools(self, indexes: list[int]) -> None:
        calls = [part for index in indexes if isinstance(part := self._parts[index], ToolPart)]
        seen: list[tuple[Message, ...]] = []

        def context(call: ToolPart) -> ToolContext:
            if not seen:
                seen.append(self._conversation())
            plan, turn = self._plan, self._turn
            return ToolContext(
                run_id=plan.run_id,
                tool_call_id=call.tool_call_id,
                tool_name=call.tool_name,
                agent=plan.agent,
                resource_id=None if turn is None else turn.resource_id,
                thread_id=None if turn is None else turn.thread_id,
                request_context=plan.request_context,
                messages=seen[0],
            )

        def settled(index: int, outcome: ToolPart) -> None:
            self._parts[indexes[index]] = outcome
            self._tell(outcome)

        await run_calls(calls, self._plan.tools, context, self._plan.tool_concurrency, settled)

    def _tell(self, outcome: ToolPart) -> None:
        if self._emit is None:
            return
        common: dict[str, Any] = {
            "run_id": self._plan.run_id,
            "tool_call_id": outcome.tool_call_id,
            "tool_name": outcome.tool_name,
            "args": outcome.args,
        }
        if outcome.state == "result":
            self._emit(ToolResultEvent(**common, result=outcome.output))
        else:
            self._emit(ToolErrorEvent(**common, error=outcome.error or outcome.state))

    # -- ending --------------------------------------------------------------------------------------

    def _wind_up(self, failure: Exception | None) -> None:
        """Keep what an unfinished model call had said, close open calls, record a failure."""
        if self._answer is not None:
            if partial := self._answer.partial():
                self._parts += [StepPart(model=self._plan.model.name), *partial]
            self._answer = None
        for index in range(len(self._parts)):
            if self._is_open(index):
                part = self._parts[index]
                assert isinstance(part, ToolPart)
                self._parts[index] = closed = interrupted(part)
                self._tell(closed)
        if failure is not None:
            name, _, message = describe_error(failure).partition(": ")
            self._parts.append(ErrorPart(name=name, message=message))

    async def _commit(
        self, failure: Exception | None
    ) -> tuple[Sequence[Message], BaseException | None, asyncio.CancelledError | None]:
        """Store the turn: the messages as stored, or why they are not; and a cancellation meanwhile."""
        if self._turn is None or not self._turn.writes:
            return (), None, None
        status: RunStatus = "finished"
        if self._reason in ("aborted", "timeout"):
            status = "aborted"
        elif failure is not None:
            status = "failed"
        commit, cancelled = await finish(
            self._turn.commit(
                self._message() if self._parts else None,
                status=status,
                finish_reason=self._reason,
                usage=self._usage,
                error=None if failure is None else describe_error(failure),
            )
        )
        if commit.cancelled():  # by an event loop that is being shut down
            return (), StoreError("storing the turn was cancelled"), cancelled
        if (error := commit.exception()) is not None:
            return (), error, cancelled
        receipt = commit.result()
        return () if receipt is None else receipt.messages, None, cancelled

    def _result(self, saved: Sequence[Message]) -> AgentResult:
        plan, turn = self._plan, self._turn
        stored = {message.id: message for message in saved}
        given = [stored.get(message.id, message) for message in (plan.input if turn is None else turn.input)]
        message = stored.get(self._message_id) or (self._message() if self._parts else None)
        return AgentResult(
            run_id=plan.run_id,
            agent=plan.agent,
            finish_reason=self._reason,
            message=message,
            messages=tuple(given) if message is None else (*given, message),
            usage=self._usage,
            context=plan.prompt.report,
            thread_id=None if turn is None else turn.thread_id,
            resource_id=None if turn is None else turn.resource_id,
        )

    def _message(self) -> Message:
        """The answer as far as it is."""
        return Message(role="assistant", parts=self._parts, id=self._message_id, run_id=self._plan.run_id)

    def _conversation(self) -> tuple[Message, ...]:
        """What the model is sent: the prompt, and the answer so far."""
        messages = self._plan.prompt.messages
        return (*messages, self._message()) if self._parts else messages


def _reason(given: str | None) -> FinishReason:
    """A model's finish reason as that of an answer without open calls."""
    if given is None or given == "tool-calls":
        return "stop"
    return given if given in _FINISH_REASONS else "other"  # type: ignore[return-value]


def _with(result: AgentResult, error: E) -> E:
    """`error` with what the run had produced."""
    error.result = result  # type: ignore[attr-defined]
    return error


async def finish(
    call: Coroutine[Any, Any, T],
) -> tuple[asyncio.Task[T], asyncio.CancelledError | None]:
    """Run `call` to its end, as a task, even if the caller is cancelled meanwhile; both are returned."""
    task = asyncio.ensure_future(call)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    return task, cancelled


async def settle(call: Coroutine[Any, Any, T]) -> T:
    """Run `call` to its end even if the caller is cancelled meanwhile; the cancellation then goes on."""
    task, cancelled = await finish(call)
    if cancelled is not None:
        raise cancelled from (None if task.cancelled() else task.exception())
    return task.result()

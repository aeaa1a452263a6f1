"""The loop of a run: ask the model, run its tools, ask again; then store the turn, however it ended.

All state of a run is in one `Run`. `generate` and `stream` differ in one thing only: whether there is an
`emit` to tell events to; with it the model is streamed, without it each model call is one request.

Processors (`guards`) may stop the run at any hook; then nothing of it is stored. What they have not accepted
is neither told nor stored: while they must judge a step, or the whole answer, its events are held back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from .._errors import ModelError, ProcessorError, StoreError, ThreadmarkError, TripwireError
from .._ids import new_id
from .._types import (
    ErrorPart,
    FinishReason,
    Json,
    Message,
    Part,
    ReasoningPart,
    RunStatus,
    StepPart,
    TextPart,
    ToolPart,
    Usage,
)
from ..memory import context as memory_context
from ..memory.context.render import escape, interrupted
from ..memory.turn import Turn, without_context
from ..models.base import Model, ModelRequest, ModelResponse
from ..processors.base import FEEDBACK_ID, Tripwire
from ..processors.pipeline import Pipeline
from ..processors.report import explain
from .calls import describe_error, run_calls, sound
from .events import (
    Emit,
    StartEvent,
    StepFinishEvent,
    StepStartEvent,
    ThreadTitleEvent,
    ToolErrorEvent,
    ToolResultEvent,
)
from .replay import tell_answer
from .request_context import RequestContext
from .result import AgentResult, answer_reason
from .streaming import StreamedAnswer
from .tools import ToolContext, ToolSet

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

_ONE_REQUEST = Usage(requests=1)

FEEDBACK = """Your last answer was not accepted and not shown. The reasons stand in the element below; it is
feedback, not a message of the user. Answer the conversation again so that they no longer hold.
<feedback>
{}
</feedback>"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one run was asked to do, every choice made. Seconds; `deadline` by the loop's clock.

    `prompt` makes the prompt of the input that the processors accepted.
    """

    run_id: str
    agent: str
    model: Model
    tools: ToolSet
    prompt: Callable[[Sequence[Message]], memory_context.Prompt]
    input: Sequence[Message]
    settings: Mapping[str, Json]
    max_steps: int
    tool_concurrency: int
    deadline: float | None
    step_timeout: float | None
    request_context: RequestContext
    claim: bool = False
    """Whether the run's id is the caller's, so that it has to be claimed first."""
    guards: Pipeline | None = None


class _TimeUpError(Exception):
    """A time limit of the caller's was reached."""


class Run:
    """One run in progress: its plan, its turn (`None` without memory), and what it has produced so far."""

    __slots__ = (
        "_accepted",
        "_answer",
        "_begun",
        "_emit",
        "_feedback",
        "_guards",
        "_hold",
        "_input",
        "_judged",
        "_live",
        "_message_id",
        "_metadata",
        "_parts",
        "_plan",
        "_prompt",
        "_reason",
        "_report",
        "_seen",
        "_step",
        "_tools",
        "_tripwire",
        "_turn",
        "_usage",
    )

    def __init__(self, plan: Plan, turn: Turn | None, emit: Emit | None) -> None:
        self._plan = plan
        self._turn = turn
        self._emit = emit
        self._guards = plan.guards
        self._hold = "none" if plan.guards is None else plan.guards.hold
        self._live = None if self._hold == "run" else emit  # where events go as they happen
        self._accepted = False  # the input, by processors
        self._begun = False
        self._judged = self._hold != "run"
        self._input = plan.input
        self._prompt = memory_context.Prompt(
            instructions="", messages=(), report=memory_context.ContextReport()
        )
        self._report = self._prompt.report
        self._tools = plan.tools
        self._seen: Sequence[Message] = ()  # by the model, in this step
        self._feedback: list[str] = []
        self._message_id = new_id()
        self._metadata: Mapping[str, Json] = {}
        self._parts: list[Part] = []
        self._answer: StreamedAnswer | None = None  # of the model call under way
        self._usage = Usage()
        self._step = 0
        self._reason: FinishReason = "stop"
        self._tripwire: Tripwire | None = None

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
        except TripwireError as error:
            self._reason = "tripwire"
            self._tripwire = Tripwire(
                reason=error.reason, processor=error.processor, hook=error.hook, metadata=error.metadata
            )
        except Exception as error:
            if not self._begun:
                raise  # nothing is stored, and no model was asked
            self._reason, failure = "error", error
        saved: Sequence[Message] = ()
        if self._tripwire is not None or isinstance(failure, ProcessorError):
            self._parts.clear()
            self._accepted = False
            unsaved, late = await self._retract(failure)
        else:
            self._wind_up(failure)
            saved, unsaved, late = await self._commit(failure)
            late = late or await self._tell_title()
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
        limit = asyncio.timeout_at(plan.deadline)
        try:
            async with limit:
                await self._open()
                try:
                    await self._steps()
                except (TripwireError, ProcessorError, _TimeUpError):
                    raise
                except Exception:
                    if self._begun:
                        self._close()
                        await self._judge(retry=False)
                    raise
        except TimeoutError:
            if limit.expired():
                raise _TimeUpError from None
            raise

    async def _open(self) -> None:
        """Have the input accepted, and make the prompt of it."""
        guards, turn = self._guards, self._turn
        if guards is not None:
            given = [without_context(message) for message in self._input]
            made = await guards.input(given)
            if made is not given:
                self._input = made
                if turn is not None:
                    turn.take_input(made)
                    self._input = turn.input
        self._prompt = self._plan.prompt(self._input)
        self._report = self._prompt.report

    async def _begin(self) -> None:
        """The input is accepted: the turn will be stored, unless processors stop it later."""
        self._accepted = True
        if self._turn is not None and self._plan.claim:
            await settle(self._turn.claim())
        if self._turn is not None and self._turn.settings.save_user_first:
            await settle(self._turn.begin())
        self._begun = True

    async def _steps(self) -> None:
        plan, guards = self._plan, self._guards
        for self._step in range(1, plan.max_steps + 1):
            self._feedback = []
            if guards is not None:
                guards.facts.step, guards.facts.retries = self._step, 0
            if self._live is not None:
                self._live(StepStartEvent(run_id=plan.run_id, step=self._step, model=plan.model.name))
            more = await self._one_step()
            while more is None:
                more = await self._one_step()
            if not more:
                return
            if self._judged and self._turn is not None and self._turn.settings.save_user_first:
                await settle(self._turn.checkpoint(self._message()))

    async def _one_step(self) -> bool | None:
        """One model call and its tools. Whether another step follows; `None`: this one is to be repeated."""
        plan, guards, mark = self._plan, self._guards, len(self._parts)
        try:
            response, told = await self._ask()
            if guards is not None:
                response = await guards.output_step(response)
            if self._live is not None and not told:
                self._tell_parts(response)
            first = self._add(response)
            if response.finish_reason == "error":
                raise ModelError(f"{plan.model.name} ended its answer with an error")
            calls = [index for index in range(first, len(self._parts)) if self._is_open(index)]
            if calls:
                await self._run_tools(calls)
            more = bool(calls) and self._step < plan.max_steps
            reason = answer_reason(response.finish_reason)
            if not more:
                self._reason = "max-steps" if calls else reason
                await self._judge(retry=not calls)
        except TripwireError as error:
            if not error.retry or guards is None:
                raise
            guards.facts.retries += 1
            del self._parts[mark:]
            self._feedback.append(error.reason)
            return None
        if self._live is not None:
            self._live(
                StepFinishEvent(
                    run_id=plan.run_id,
                    step=self._step,
                    finish_reason="tool-calls" if calls else reason,
                    is_continued=more,
                    usage=response.usage,
                )
            )
        return more

    async def _judge(self, *, retry: bool) -> None:
        """Have processors judge the whole answer, and tell of it if it was held back."""
        if self._guards is None:
            return
        if self._parts:
            message = await self._guards.output_result(self._message(), retry=retry)
            self._parts, self._metadata = list(message.parts), message.metadata
            if self._emit is not None and self._hold == "run":
                tell_answer(message, self._plan.run_id, self._emit)
        self._judged = True

    # -- asking the model ----------------------------------------------------------------------------

    async def _ask(self) -> tuple[ModelResponse, bool]:
        """One answer of the model, and whether it has been told already."""
        plan, guards = self._plan, self._guards
        request = ModelRequest(
            messages=self._conversation(),
            instructions=self._prompt.instructions,
            tools=plan.tools.definitions,
            settings=plan.settings,
        )
        response: ModelResponse | None = None
        if guards is not None:
            made, response, changed = await guards.input_step(request)
            if self._step == 1 and changed:
                self._report = explain(self._prompt.report, request, made, changed)
            names = {item.name for item in made.tools}
            self._tools = ToolSet(
                {name: tool for name, tool in plan.tools.tools.items() if name in names}, tuple(made.tools)
            )
            request = made
        self._seen = request.messages
        if not self._begun:
            await self._begin()
        if response is None:
            response = self._counted(await self._asked(request))
        told = self._answer is not None
        if guards is not None and guards.filters_text:
            if not told:
                response = replace(response, parts=tuple(await guards.output_parts(response.parts)))
            response = replace(
                response, parts=tuple([part for part in response.parts if not _is_empty(part)])
            )
        return response, told

    async def _asked(self, request: ModelRequest) -> ModelResponse:
        """A model's answer to `request`, or to what processors ask instead after it failed."""
        guards = self._guards
        while True:
            try:
                return await self._call(request)
            except ModelError as error:
                told = self._answer is not None and self._answer.begun
                if guards is None or told or not guards.retries_left:
                    raise
                again = await guards.api_error(error, request)
                if again is None:
                    raise
                guards.facts.retries += 1
                await asyncio.sleep(again.delay)
                request = again.request or request

    async def _call(self, request: ModelRequest) -> ModelResponse:
        """One model call. Whatever goes wrong in it is a `ModelError`."""
        plan, model, guards = self._plan, self._plan.model, self._guards
        limit = asyncio.timeout(plan.step_timeout)
        try:
            async with limit:
                if self._live is None or self._hold != "none":
                    return await model.request(request)
                texts = guards if guards is not None and guards.filters_text else None
                self._answer = StreamedAnswer(plan.run_id, self._step, self._live, texts)
                return await self._answer.read(model.stream(request))
        except ThreadmarkError:
            raise
        except Exception as error:
            if limit.expired() and isinstance(error, TimeoutError):
                raise _TimeUpError from None
            raise ModelError(f"{model.name} failed: {describe_error(error)}") from error

    def _counted(self, response: ModelResponse) -> ModelResponse:
        """`response` as it is kept, its usage added to the run's."""
        if response.model is None or not response.usage.requests:
            response = replace(
                response,
                model=response.model or self._plan.model.name,
                usage=response.usage if response.usage.requests else response.usage + _ONE_REQUEST,
            )
        self._usage = response.usage if self._usage.requests == 0 else self._usage + response.usage
        return response

    def _tell_parts(self, response: ModelResponse) -> None:
        assert self._live is not None
        answer = StreamedAnswer(self._plan.run_id, self._step, self._live)
        for index, part in enumerate(response.parts):
            answer.tell(index, part)

    def _add(self, response: ModelResponse) -> int:
        """Add a response to the answer. Returns the index of its first part."""
        self._answer = None
        self._parts.append(response.step_part())
        first = len(self._parts)
        self._parts.extend([sound(part) if isinstance(part, ToolPart) else part for part in response.parts])
        return first

    # -- tools ---------------------------------------------------------------------------------------

    def _is_open(self, index: int) -> bool:
        part = self._parts[index]
        return isinstance(part, ToolPart) and part.state == "call" and not part.provider_executed

    async def _run_tools(self, indexes: list[int]) -> None:
        calls = [part for index in indexes if isinstance(part := self._parts[index], ToolPart)]
        seen: list[tuple[Message, ...]] = []

        def context(call: ToolPart) -> ToolContext:
            if not seen:
                before = [message for message in self._seen if message.id != self._message_id]
                seen.append((*before, self._message()))
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

        guards, limit = self._guards, self._plan.tool_concurrency
        if guards is None or not guards.sees_tool_results:
            await run_calls(calls, self._tools, context, limit, settled)
            return
        # Until a processor has seen an outcome, the call counts as open.
        outcomes: list[ToolPart] = []
        await run_calls(calls, self._tools, context, limit, lambda _, outcome: outcomes.append(outcome))
        for index, outcome in enumerate(outcomes):
            settled(index, await guards.tool_result(outcome))

    def _tell(self, outcome: ToolPart) -> None:
        if self._live is None:
            return
        common: dict[str, Any] = {
            "run_id": self._plan.run_id,
            "tool_call_id": outcome.tool_call_id,
            "tool_name": outcome.tool_name,
            "args": outcome.args,
        }
        if outcome.state == "result":
            self._live(ToolResultEvent(**common, result=outcome.output))
        else:
            self._live(ToolErrorEvent(**common, error=outcome.error or outcome.state))

    # -- ending --------------------------------------------------------------------------------------

    def _wind_up(self, failure: Exception | None) -> None:
        """Close the answer, drop it if it was to be judged and is not, record a failure."""
        self._close()
        if not self._judged:
            self._parts.clear()
            if self._turn is not None:
                self._turn.discard_changes()
        if failure is not None:
            name, _, message = describe_error(failure).partition(": ")
            self._parts.append(ErrorPart(name=name, message=message))

    def _close(self) -> None:
        """Keep what an unfinished model call had said, and close open calls."""
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

    async def _commit(
        self, failure: Exception | None
    ) -> tuple[Sequence[Message], BaseException | None, asyncio.CancelledError | None]:
        """Store the turn: the messages as stored, or why they are not; and a cancellation meanwhile."""
        if self._turn is None or not self._turn.writes or not self._accepted:
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
                model=self._plan.model,
                request_context=self._plan.request_context,
            )
        )
        if commit.cancelled():  # by an event loop that is being shut down
            return (), StoreError("storing the turn was cancelled"), cancelled
        if (error := commit.exception()) is not None:
            return (), error, cancelled
        receipt = commit.result()
        return () if receipt is None else receipt.messages, None, cancelled

    async def _tell_title(self) -> asyncio.CancelledError | None:
        """Tell the title that the thread gets, if the stream is to wait for it; a cancellation meanwhile."""
        turn, emit = self._turn, self._emit
        if turn is None or turn.titling is None or emit is None:
            return None
        wanted = turn.settings.generate_title
        if wanted is None or not wanted.emit_event:
            return None
        with contextlib.suppress(TimeoutError):
            try:
                async with asyncio.timeout_at(self._plan.deadline):
                    outcome = await asyncio.shield(turn.titling)
            except asyncio.CancelledError as error:
                return error
            if outcome.title is not None or outcome.error is not None:
                emit(
                    ThreadTitleEvent(
                        run_id=self._plan.run_id,
                        thread_id=turn.thread_id,
                        title=outcome.title,
                        error=outcome.error,
                    )
                )
        return None

    async def _retract(
        self, failure: Exception | None
    ) -> tuple[BaseException | None, asyncio.CancelledError | None]:
        """Take back what is stored of the turn: why that failed, and a cancellation meanwhile."""
        if self._turn is None or not self._begun:
            return None, None
        # Not the reason: it may quote what must not be stored.
        if self._tripwire is not None:
            why = f"processor {self._tripwire.processor!r} stopped the run"
        else:
            why = f"processor {getattr(failure, 'processor', '')!r} failed"
        task, cancelled = await finish(self._turn.retract(why, finish_reason=self._reason, usage=self._usage))
        return StoreError(
            "taking back the turn was cancelled"
        ) if task.cancelled() else task.exception(), cancelled

    def _result(self, saved: Sequence[Message]) -> AgentResult:
        plan, turn = self._plan, self._turn
        stored = {message.id: message for message in saved}
        given = [stored.get(message.id, message) for message in self._input] if self._accepted else []
        message = stored.get(self._message_id) or (self._message() if self._parts else None)
        return AgentResult(
            run_id=plan.run_id,
            agent=plan.agent,
            finish_reason=self._reason,
            message=message,
            messages=tuple(given) if message is None else (*given, message),
            usage=self._usage,
            context=self._report,
            thread_id=None if turn is None else turn.thread_id,
            resource_id=None if turn is None else turn.resource_id,
            tripwire=self._tripwire,
        )

    def _message(self) -> Message:
        """The answer as far as it is."""
        return Message(
            role="assistant",
            parts=self._parts,
            id=self._message_id,
            run_id=self._plan.run_id,
            metadata=self._metadata,
        )

    def _conversation(self) -> tuple[Message, ...]:
        """What the model is sent: the prompt, and the answer so far."""
        messages = self._prompt.messages
        if self._parts:
            messages = (*messages, self._message())
        if self._feedback:
            text = FEEDBACK.format("\n".join([escape(reason) for reason in self._feedback]))
            messages = (*messages, Message.user(text, id=FEEDBACK_ID))
        return messages


def _is_empty(part: Part) -> bool:
    """Whether processors left nothing of a part."""
    if isinstance(part, ReasoningPart):
        return not (part.text or part.provider or part.signature)
    return isinstance(part, TextPart) and not (part.text or part.provider)


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

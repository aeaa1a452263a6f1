"""Memory for a plain `pydantic_ai.Agent`, in one line: `capabilities=[MemoryCapability(...)]`.

A run is a turn: what memory holds goes before the prompt on its way to the model, and the prompt and the
answer are stored in one transaction when the run is over, however it ended. All that memory does is done by
the `Turn` that Threadmark's own agents use, so both see and store the same.

Importing this module imports Pydantic AI.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, Unpack

from pydantic_ai import FunctionToolset, ModelRetry, RunContext
from pydantic_ai import Tool as ProviderTool
from pydantic_ai import messages as pai
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.models import ModelRequestContext

from .._codec import to_json
from .._errors import ConfigurationError, ConflictError, StoreError, ThreadmarkError, ValidationError
from .._ids import new_id
from .._types import ErrorPart, FinishReason, Message, RunStatus, Speaker, StepPart, ToolPart
from ..agents.calls import describe_error, with_output
from ..agents.result import answer_reason
from ..agents.settle import finish, settle
from ..memory import Memory
from ..memory.context.render import interrupted
from ..memory.options import MemoryOptions
from ..memory.threads import ThreadHandle
from ..memory.tools import MemoryTool
from ..memory.turn import Turn
from ..models._convert import to_model_messages
from ..models._failures import model_error
from ..models._response import to_response
from ..models.pydantic_ai import PydanticAIModel
from ._messages import (
    answer_messages,
    asks,
    history_messages,
    mark,
    marked,
    prompt_message,
    usage_of,
    with_parts,
)

GivenId: TypeAlias = str | Callable[[RunContext[Any]], str | Awaitable[str | None] | None]
"""An id, or a function of the run's context that gives one."""
GivenSpeaker: TypeAlias = Speaker | Callable[[RunContext[Any]], Speaker | Awaitable[Speaker | None] | None]
"""Likewise for who is talking."""

ID = "threadmark-memory"
"""Pydantic AI refuses a second capability of this id: a run has one memory."""

RETRIES = 10
"""How often in one run a model may call one of memory's tools wrongly before Pydantic AI ends the run."""


class MemoryCapability(AbstractCapability[Any]):
    """Memory for the runs of a Pydantic AI agent.

        agent = Agent("openai:gpt-5.4-mini", capabilities=[
            MemoryCapability(memory, resource=lambda ctx: ctx.deps.user, thread=lambda ctx: ctx.deps.chat),
        ])

    Args:
        memory: A `Memory`, or the handle of one thread, `memory.resource("user-1").thread("t-1")`, which says
            whose it is; then `resource` and `thread` are left out.
        resource: The owner: an id, or a function of the `RunContext`, plain or async, so that it comes from
            the run's `deps`. Never let a client choose it.
        thread: The conversation, given likewise. If both functions give `None` the run goes without memory.
        speaker: Who is talking, given likewise: a `Speaker`.
        name: The agent's name in stored runs; default: that of the agent, or "agent".
        options: Options of memory for these runs, as for `Agent.generate`; see `MemoryOptions`.

    One instance serves any number of runs at once. Raises `ConfigurationError` for what cannot work; a run
    raises `ValidationError` before any model call if it has only one of owner and thread, and `StoreError`
    if its turn could not be stored.
    """

    def __init__(
        self,
        memory: Memory | ThreadHandle,
        *,
        resource: GivenId | None = None,
        thread: GivenId | None = None,
        speaker: GivenSpeaker | None = None,
        name: str | None = None,
        **options: Unpack[MemoryOptions],
    ) -> None:
        if isinstance(memory, ThreadHandle):
            if resource is not None or thread is not None:
                raise ConfigurationError(
                    "the handle of a thread says whose it is: leave resource and thread out"
                )
            resource, thread, memory = memory._resource, memory.id, memory._memory
        if not isinstance(memory, Memory):
            raise ConfigurationError(
                f"memory must be a Memory or the handle of a thread, not {type(memory).__name__}"
            )
        if resource is None or thread is None:
            raise ConfigurationError(
                "memory needs an owner and a conversation: give resource=... and thread=..."
            )
        memory.settings.merge(options)
        self.id = ID
        self._memory = memory
        self._resource = resource
        self._thread = thread
        self._speaker = speaker
        self._name = name
        self._options: Mapping[str, Any] = options

    def __repr__(self) -> str:
        return f"MemoryCapability({self._memory!r})"

    async def for_run(self, ctx: RunContext[Any]) -> AbstractCapability[Any]:
        """The memory of one run: reads what its turn needs."""
        resource, thread = await _given(self._resource, ctx), await _given(self._thread, ctx)
        if resource is None and thread is None:
            return _NoMemory()
        if resource is None or thread is None:
            raise ValidationError(
                "give resource and thread together: memory needs an owner and a conversation"
            )
        asked = _Asked(ctx, await _given(self._speaker, ctx))
        name = self._name or (None if ctx.agent is None else ctx.agent.name) or "agent"
        turn = await self._memory.open_turn(
            resource=resource,
            thread=thread,
            input=asked.input,
            options=self._options,
            agent=name,
            run_id=getattr(ctx, "run_id", None),
        )
        if turn.finished is not None:
            raise ConflictError(f"run {turn.run_id!r} was made before; give this run another run_id")
        return _MemoryRun(turn, asked)


class _NoMemory(AbstractCapability[Any]):
    """A run that goes without memory."""

    def __init__(self) -> None:
        self.id = ID


class _Asked:
    """What a run was asked, and where its answer begins among the messages of the run."""

    def __init__(self, ctx: RunContext[Any], speaker: Speaker | None) -> None:
        given = list(ctx.messages)
        self.message_id = new_id()
        self.goes_on = False
        """Whether the answer goes on with one that waited for outcomes of its calls."""
        self.last = len(given)
        """The place of the request that holds the prompt; what follows it is the answer."""
        if ctx.prompt is not None:
            self.input = [*history_messages(given), prompt_message(ctx.prompt, speaker)]
        elif given and isinstance(given[-1], pai.ModelRequest):
            self.input = history_messages(given)
            self.last = len(given) - 1
        else:
            self.last = max([n for n, message in enumerate(given) if asks(message)], default=-1)
            self.input = history_messages(given[: self.last + 1])
            answer = given[self.last + 1 :]
            self.goes_on = bool(answer)
            self.message_id = next(filter(None, map(marked, answer)), None) or self.message_id


class _MemoryRun(AbstractCapability[Any]):
    """The memory of one run."""

    def __init__(self, turn: Turn, asked: _Asked) -> None:
        self.id = ID
        self._turn = turn
        self._asked = asked
        self._live: Sequence[pai.ModelMessage] | None = None  # the run's own messages, as they grow
        self._model: PydanticAIModel | None = None
        self._shown: Sequence[Message] = ()  # memory's prompt, as it is sent
        self._output_tools: frozenset[str] = frozenset()
        self._results: dict[str, Any] = {}  # of tools, by the id of the call
        self._shown_by: list[tuple[str, Any]] = []  # what tools showed the model beside that
        self._failed: tuple[Exception, Exception] | None = None  # a model call's error, and as it is told

    def get_instructions(self) -> Any:
        async def about_memory(ctx: RunContext[Any]) -> str:
            return self._turn.instructions

        return about_memory

    def get_toolset(self) -> FunctionToolset[Any] | None:
        tools = [_tool(item) for item in self._turn.tools()]
        return FunctionToolset(tools) if tools else None

    # -- on the way to the model ---------------------------------------------------------------------

    async def wrap_model_request(
        self, ctx: RunContext[Any], *, request_context: ModelRequestContext, handler: Any
    ) -> pai.ModelResponse:
        """Send memory's prompt in place of the run's own; the run's messages stay as they are."""
        first = self._live is None
        self._live = ctx.messages
        parameters = request_context.model_request_parameters
        self._output_tools = frozenset(tool.name for tool in parameters.output_tools)
        if self._model is None:
            self._model = PydanticAIModel(request_context.model)
        turn, model = self._turn, self._model
        if first:
            await turn.prepare(model.name)
            await turn.refresh(model)
            self._shown = self._made(request_context)
            await settle(turn.begin())
        else:
            if turn.settings.observational_memory is not None or turn.settings.save_user_first:
                await self._keep_up(model, request_context)
        messages = request_context.messages
        # Some versions merge neighbours before they ask, so that no place is what it was.
        wire = self._wire(messages if len(messages) >= len(self._live) else self._live)
        try:
            response: pai.ModelResponse = await handler(replace(request_context, messages=wire))
        except Exception as error:
            if not isinstance(error, (ThreadmarkError, ModelRetry)):
                self._failed = error, model_error(model.name, error, *model.secrets)
            raise
        if first and not parameters.output_tools and parameters.output_object is None:
            turn.learn(to_response(response).usage)
        return response

    async def _keep_up(self, model: PydanticAIModel, request_context: ModelRequestContext) -> None:
        """Before a further step: observe, and store what is finished, as far as that is asked for."""
        answer = self._answer()
        if await self._turn.refresh(model, answer[-1] if answer else None):
            self._shown = self._made(request_context)
        if answer:
            await settle(self._turn.checkpoint(answer[-1]))

    def _made(self, request_context: ModelRequestContext) -> Sequence[Message]:
        """Memory's prompt, counted with the agent's own instructions and tools."""
        assert self._model is not None
        last = request_context.messages[-1]
        whole = (last.instructions if isinstance(last, pai.ModelRequest) else None) or ""
        own = whole.replace(self._turn.instructions, "", 1).strip() if self._turn.instructions else whole
        tools = "\n".join(
            f"{tool.name} {tool.description or ''} {to_json(tool.parameters_json_schema)}"
            for tool in request_context.model_request_parameters.function_tools
        )
        prompt = self._turn.prompt(own, tools=tools, model=self._model.name)
        # The answer that goes on is not told by memory: the run has it, with its outcomes.
        return [message for message in prompt.messages if message.id != self._asked.message_id]

    def _wire(self, messages: Sequence[pai.ModelMessage]) -> list[pai.ModelMessage]:
        """What is sent: memory's prompt, with the input as it renders it, and the answer so far."""
        asked = self._asked
        wire = to_model_messages(self._shown)
        own = messages[asked.last] if 0 <= asked.last < len(messages) else None
        if isinstance(own, pai.ModelRequest) and not asked.goes_on:
            if system := [part for part in own.parts if isinstance(part, pai.SystemPromptPart)]:
                wire.insert(0, pai.ModelRequest(system))
            if wire and isinstance(wire[-1], pai.ModelRequest):
                wire[-1] = with_parts(wire[-1], own)
            else:
                wire.append(own)
        return [*wire, *messages[asked.last + 1 :]]

    async def after_tool_execute(
        self, ctx: RunContext[Any], *, call: pai.ToolCallPart, tool_def: Any, args: Any, result: Any
    ) -> Any:
        """Note what a tool gave: a run that is stopped in this step does not tell it any more."""
        if isinstance(result, pai.ToolReturn):
            self._results[call.tool_call_id] = result.return_value
            if result.content is not None:
                self._shown_by.append((call.tool_name, result.content))
        else:
            self._results[call.tool_call_id] = result
        return result

    # -- the end -------------------------------------------------------------------------------------

    async def wrap_run(self, ctx: RunContext[Any], *, handler: Any) -> Any:
        """Store the turn when the run is over."""
        try:
            result = await handler()
        except asyncio.CancelledError as cancelled:
            await self._store_rest("aborted", "aborted", cancelled)
            raise
        except Exception as error:
            await self._store_rest("failed", "error", error)
            raise
        if self._live is not None:
            answer = self._answer()
            steps = [part for message in answer for part in message.parts if isinstance(part, StepPart)]
            reason = answer_reason(steps[-1].finish_reason if steps else None)
            await self._commit(answer, "finished", reason)
        return result

    async def _store_rest(self, status: RunStatus, reason: FinishReason, error: BaseException) -> None:
        """Store what a run did that did not come to its end. If that fails, it is the cause of `error`."""
        if self._live is None:
            return  # no model was asked, and nothing is stored
        answer = self._answer()
        told = None
        if isinstance(error, Exception):
            told = self._failed[1] if self._failed is not None and self._failed[0] is error else error
            name, _, text = describe_error(told).partition(": ")
            last = answer.pop() if answer and answer[-1].role == "assistant" else None
            failed = last or Message(role="assistant", parts=[], id=self._asked.message_id)
            answer.append(failed.replace(parts=[*failed.parts, ErrorPart(name=name, message=text)]))
        answer = [message.replace(parts=[self._closed(part) for part in message.parts]) for message in answer]
        stored, _ = await finish(self._commit(answer, status, reason, told))
        unsaved = StoreError("storing the turn was cancelled") if stored.cancelled() else stored.exception()
        if unsaved is not None:
            raise error from unsaved

    def _closed(self, part: Any) -> Any:
        """`part`, closed if it is an open call: by what its tool gave, or as interrupted."""
        if not isinstance(part, ToolPart) or part.state != "call" or part.provider_executed:
            return part
        if part.tool_call_id in self._results:
            return with_output(part, self._results[part.tool_call_id])
        return interrupted(part)

    def _answer(self) -> list[Message]:
        assert self._live is not None
        added = self._live[self._asked.last + 1 :]
        return answer_messages(added, self._asked.message_id, self._output_tools, self._shown_by)

    async def _commit(
        self, answer: list[Message], status: RunStatus, reason: FinishReason, error: Exception | None = None
    ) -> None:
        assert self._live is not None
        turn, asked = self._turn, self._asked
        added = self._live[asked.last + 1 :]
        whole = bool(answer) and answer[-1].role == "assistant"
        await turn.commit(
            answer[-1] if whole else None,
            earlier=answer[:-1] if whole else answer,
            status=status,
            finish_reason=reason,
            usage=usage_of(added),
            error=None if error is None else describe_error(error),
            model=self._model,
        )
        if turn.input and 0 <= asked.last < len(self._live):
            mark(self._live[asked.last], turn.input[-1].id)
        for message in added:
            if isinstance(message, pai.ModelResponse):
                mark(message, asked.message_id)


def _tool(offered: MemoryTool) -> ProviderTool[Any]:
    async def run(**arguments: Any) -> Any:
        try:
            return await offered.run(arguments)
        except Exception as error:
            raise ModelRetry(describe_error(error)) from error

    tool: ProviderTool[Any] = ProviderTool.from_schema(
        run,
        name=offered.name,
        description=offered.description,
        json_schema=dict(offered.parameters),
    )
    tool.max_retries = RETRIES
    return tool


async def _given(value: Any, ctx: RunContext[Any]) -> Any:
    made = value(ctx) if callable(value) else value
    return await made if inspect.isawaitable(made) else made

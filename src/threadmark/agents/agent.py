"""The agent: what it is made of, and the calls that run it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from .._errors import ConfigurationError, ValidationError
from .._ids import check_count, check_id, check_metadata
from .._sync import sync_twin
from .._types import Json, Message
from ..memory import context as memory_context
from ..memory.turn import Turn
from ..models.base import Model
from ..processors._values import own_message
from ..processors.base import ProcessorContext
from ..processors.pipeline import Entry, Kind, Pipeline, entries, memory_options
from .answering import Answering
from .completion import Check, CompletionChecks
from .delegating import Delegating, Team
from .delegation import Delegation
from .events import Emit
from .hooks import Hooks, check_hooks
from .limits import Spending, UsageLimits, check_limits
from .loop import execute
from .networks import Networks
from .options import (
    Call,
    CallOptions,
    Dynamic,
    Processors,
    Tools,
    TurnSource,
    check_agent_options,
    check_call,
    check_flag,
    check_processors,
    check_rule,
    check_seconds,
)
from .output import Output
from .plan import ApprovalRule, Plan
from .prompts import Prompt
from .records import record_of
from .replay import replay
from .request_context import RequestContext, context_check
from .result import AgentResult
from .resumable import Resumable
from .runs import AgentRuns
from .state import RunState
from .stream import AgentStream, stream_twin
from .tools import ToolSet
from .tracing import traced_run

if TYPE_CHECKING:
    from ..models import ModelLike


class Agent(Resumable, Networks):
    """Answers with a model, tools and memory.

    Args:
        name: Identifies the agent in stored runs and in events.
        instructions: What the model is told first.
        model: `"provider:model"`, a `Model`, or a model object of Pydantic AI.
        memory: Where conversations are kept; without it every call stands alone.
        tools: Typed functions, or `Tool`s made with `@tool`.
        max_steps: Most model calls in one run; at the limit the run ends normally, with "max-steps".
        tool_concurrency: Most tools of one step that run at once.
        settings: Passed on to the model (`temperature`, `max_tokens`, ...).
        output: Answer with an object: a type, a JSON schema, or `Output(...)`.
        description: What the agent is good for; for whoever may delegate to it.
        input_processors: See, change or stop what goes to the model, in this order, after memory has loaded.
        output_processors: The same for what comes back, before memory stores it.
        error_processors: Decide whether a failed model call is made again.
        max_processor_retries: How often processors may have one step answered again.
        require_tool_approval: Whether a person must approve calls of tools, besides those whose tool says so:
            for all, or a function of a call's tool name and arguments, and perhaps the request context.
        request_context_schema: What values a call's request context must have: a Pydantic model, dataclass or
            `TypedDict`. What does not fit raises `ValidationError` first of all, also when a run goes on.
        usage_limits: `UsageLimits(...)` of each run and its sub-agents together; default: none.
        pause_ttl: Seconds that a paused run waits for a person at most; default: without end.
        auto_resume: Whether a user's next message may answer a suspended call; never an approval.
        hooks: `Hooks(...)`: functions of yours before each step and around each tool.
        completion: Checks of whether the task is done, or `CompletionChecks(...)`: if they do not pass, the
            model goes on with what they say.
        agents: Sub-agents, which the model may delegate to: a list, or a mapping of keys to agents. Each is a
            tool "agent-<key>", described by its `description`.
        delegation: `Delegation(...)`: hooks and limits of that.

    `instructions`, `model`, `memory`, `tools` and the lists of processors may be functions of the
    `RequestContext`, plain or async; each is called once per run. An agent keeps nothing of its calls: any
    number may run at once.
    Raises `ConfigurationError` or `ValidationError` for what cannot work.
    """

    def __init__(
        self,
        name: str,
        *,
        instructions: Dynamic[str] = "",
        model: Dynamic[ModelLike] | None = None,
        memory: Dynamic[TurnSource | None] = None,
        tools: Dynamic[Tools] = (),
        max_steps: int = 5,
        tool_concurrency: int = 10,
        settings: Mapping[str, Json] | None = None,
        output: Any = None,
        description: str = "",
        input_processors: Dynamic[Processors] = (),
        output_processors: Dynamic[Processors] = (),
        error_processors: Dynamic[Processors] = (),
        max_processor_retries: int = 3,
        require_tool_approval: ApprovalRule = False,
        request_context_schema: Any = None,
        usage_limits: UsageLimits | None = None,
        pause_ttl: float | None = None,
        auto_resume: bool = False,
        hooks: Hooks | None = None,
        completion: CompletionChecks | Sequence[Check] | None = None,
        agents: Mapping[str, Agent] | Sequence[Agent] = (),
        delegation: Delegation | None = None,
    ) -> None:
        check_agent_options(instructions=instructions, memory=memory, tools=tools)
        self.name = check_id("agent", name)
        self.description = description
        self.max_steps = check_count("max_steps", max_steps, least=1)
        self.tool_concurrency = check_count("tool_concurrency", tool_concurrency, least=1)
        self.settings = check_metadata(settings or {}, kind="settings")
        self.output = None if output is None else Output.of(output)
        self._instructions = instructions
        self._model = model
        self._memory = memory
        self._tools: ToolSet | Callable[[RequestContext], Tools | Awaitable[Tools]]
        self._tools = tools if callable(tools) else ToolSet.of(tools)
        self._models: dict[str, Model] = {}
        self.max_processor_retries = check_count("max_processor_retries", max_processor_retries)
        self.require_tool_approval = check_rule(require_tool_approval) or False
        self.pause_ttl = check_seconds("pause_ttl", pause_ttl)
        self.auto_resume = check_flag("auto_resume", auto_resume) or False
        self._chosen: weakref.WeakSet[TurnSource] = weakref.WeakSet()  # what a function gave as memory
        self.hooks = check_hooks(hooks)
        self.completion = CompletionChecks.of(completion)
        self.usage_limits = check_limits(usage_limits)
        self._context_check = context_check(request_context_schema)
        self._team = Team(agents, delegation)
        self._processors: dict[Kind, tuple[Entry, ...] | Callable[[RequestContext], Any]] = {
            "input": check_processors(input_processors, "input"),
            "output": check_processors(output_processors, "output"),
            "error": check_processors(error_processors, "error"),
        }

    is_network = False
    """Whether runs are those of a network: `agent.network(...)` makes them so."""

    @property
    def runs(self) -> AgentRuns:
        """This agent's runs that wait for a person."""
        return AgentRuns(self)

    def __repr__(self) -> str:
        return f"Agent({self.name!r})"

    async def generate(
        self, prompt: Prompt | Sequence[Prompt], **options: Unpack[CallOptions]
    ) -> AgentResult:
        """Answer `prompt`: text, a message, or several. `CallOptions` and `MemoryOptions` list the options.

            result = await agent.generate("Hello", resource="user-1", thread="chat-1")

        Raises:
            ConfigurationError, ValidationError: for what cannot work, before anything happens.
            ModelError: The model failed. What was finished is stored, and the error's `result` has it.
            StoreError: The answer could not be stored; the error's `result` has all of it.

        Cancelled, it stores what is finished as an aborted run, and then the cancellation goes on.
        """
        return await self._answer(check_call(prompt, options), None)

    generate_sync = sync_twin(generate)

    def stream(self, prompt: Prompt | Sequence[Prompt], **options: Unpack[CallOptions]) -> AgentStream:
        """Answer `prompt` as a stream of events; arguments as for `generate`.

            async with agent.stream("Hello", resource="user-1", thread="chat-1") as stream:
                async for event in stream: ...

        Wrong arguments raise here; whatever fails later is the stream's last event, and is raised by
        `stream.text` and `stream.result()`.
        """
        call = check_call(prompt, options)
        return AgentStream(lambda emit: self._answer(call, emit), call.run_id, self.name)

    stream_sync = stream_twin(stream)

    # -- one call ------------------------------------------------------------------------------------

    async def _answer(self, call: Call, emit: Emit | None) -> AgentResult:
        async def work(span: object) -> AgentResult:
            made = await self._prepare(call, emit)
            return made if isinstance(made, AgentResult) else await execute(made)

        return await traced_run(self.name, self.description, call.run_id, work)

    async def _prepare(self, call: Call, emit: Emit | None) -> RunState | AgentResult:
        """All that a run needs, every choice made; or the result of the run if it was made before."""
        loop = asyncio.get_running_loop()
        deadline = None if call.timeout is None else loop.time() + call.timeout
        self._check_context(call)
        memory = await self._resolve_memory(call)
        tools = await self._resolve_tools(call.request_context)
        model = await self._resolve_model(call)
        output = call.output or self.output
        own = None if output is None or output.model is None else self._inferred(output.model)
        chosen = self._instructions if call.instructions is None else call.instructions
        instructions = await _resolve(chosen, call.request_context)
        if not isinstance(instructions, str):
            raise ConfigurationError(f"instructions must be text, not {type(instructions).__name__}")
        listed = {kind: await self._resolve_processors(kind, call) for kind in self._processors}
        options = {**memory_options(listed["input"] + listed["output"]), **call.memory}
        turn = None if memory is None else await self._open(memory, call, options)
        if turn is not None and turn.finished is not None:
            return replay(turn, turn.finished, self.name, emit, output)
        new = call.input if turn is None else turn.input
        if not new and call.paused is None:
            raise ValidationError(
                "the prompt holds nothing new: it ends with an answer that is stored already"
            )
        if turn is not None:
            tools = tools.with_memory(turn.tools())
        hand_over = None
        auto_resume = self.auto_resume if call.auto_resume is None else call.auto_resume
        if auto_resume and memory is not None and call.paused is None and turn is not None and turn.writes:
            hand_over = await self._auto_resume(memory, call, emit)
        spending = Spending.of(call.usage_limits or self.usage_limits, call.spending, call.paused)
        delegating: Delegating | None = None
        if self._team.agents:
            delegating = Delegating(self._team, memory, model, call.depth, instructions)
            tools = ToolSet.of([*tools.tools.values(), *self._team.tools(delegating)])
        plan = Plan(
            run_id=call.run_id,
            agent=self.name,
            model=model,
            tools=tools,
            prompt=lambda accepted: _prompt(turn, instructions, call, accepted, tools, model),
            input=new,
            settings={**self.settings, **call.settings} if call.settings else self.settings,
            max_steps=call.max_steps or self.max_steps,
            tool_concurrency=self.tool_concurrency,
            deadline=deadline,
            step_timeout=call.step_timeout,
            request_context=call.request_context,
            claim=call.may_repeat,
            guards=self._guards(listed, call, model, turn, instructions),
            output=None if output is None else Answering(output, model, own),
            require_approval=(
                self.require_tool_approval
                if call.require_tool_approval is None
                else call.require_tool_approval
            ),
            pause_ttl=self.pause_ttl if call.pause_ttl is None else call.pause_ttl,
            hand_over=hand_over,
            delegating=delegating,
            record=record_of(call) if call.paused is None else call.paused.state or {},
            hooks=call.hooks or self.hooks,
            completion=call.completion or self.completion,
            spending=spending,
        )
        state = RunState(plan, turn, emit)
        if delegating is not None:
            delegating.state = state
        return state

    async def _auto_resume(
        self, memory: TurnSource, call: Call, emit: Emit | None
    ) -> Callable[[RunState], Awaitable[AgentResult | None]] | None:
        """What gives this call's message to the suspended calls that it answers, if any wait."""
        from .auto_resume import find_questions, hand_over

        questions = await find_questions(self, memory, call)
        return functools.partial(hand_over, self, questions, emit) if questions else None

    def _beneath(self, model: Model) -> Model:
        """The model that answers whatever is asked of it, when `model` is a router."""
        return model

    async def _open(self, memory: TurnSource, call: Call, options: Mapping[str, Any]) -> Turn:
        assert call.resource is not None
        assert call.thread is not None
        return await memory.open_turn(
            resource=call.resource,
            thread=call.thread,
            input=call.input,
            options=options,
            agent=self.name,
            run_id=call.run_id,
            paused=call.paused,
        )

    def _check_context(self, call: Call) -> None:
        if self._context_check is not None:
            self._context_check(call.request_context)

    async def _resolve_memory(self, call: Call) -> TurnSource | None:
        if call.resource is None or call.source is not None:
            return call.source
        return await self._choose_memory(call.request_context)

    async def _choose_memory(self, context: RequestContext) -> TurnSource:
        memory: Any = self._memory
        if memory is not None and not hasattr(memory, "open_turn"):
            memory = await _resolve(memory, context)
            if hasattr(memory, "open_turn"):
                self._chosen.add(memory)
        if memory is None:
            raise ConfigurationError(
                f"agent {self.name!r} has no memory, so it cannot use a resource and a thread; "
                "give it one with Agent(..., memory=Memory(...))"
            )
        if not hasattr(memory, "open_turn"):
            raise ConfigurationError(f"memory must be a Memory, not {type(memory).__name__}")
        source: TurnSource = memory
        return source

    async def _resolve_tools(self, context: RequestContext) -> ToolSet:
        tools = self._tools
        return tools if isinstance(tools, ToolSet) else ToolSet.of(await _resolve(tools, context))

    async def _resolve_processors(self, kind: Kind, call: Call) -> tuple[Entry, ...]:
        chosen = call.processors.get(kind, self._processors[kind])
        return (
            chosen
            if isinstance(chosen, tuple)
            else entries(await _resolve(chosen, call.request_context), kind)
        )

    def _guards(
        self,
        listed: Mapping[Kind, tuple[Entry, ...]],
        call: Call,
        model: Model,
        turn: Turn | None,
        instructions: str,
    ) -> Pipeline | None:
        if not any(entry.hooks for found in listed.values() for entry in found):
            return None
        facts = ProcessorContext(
            run_id=call.run_id,
            agent=self.name,
            model=model.name,
            resource_id=None if turn is None else turn.resource_id,
            thread_id=None if turn is None else turn.thread_id,
            request_context=call.request_context,
            history=() if turn is None else tuple([own_message(message) for message in turn.history]),
            instructions=instructions,
        )
        retries = (
            self.max_processor_retries if call.max_processor_retries is None else call.max_processor_retries
        )
        return Pipeline(listed["input"], listed["output"], listed["error"], retries, facts)

    async def _resolve_model(self, call: Call) -> Model:
        model: Any = self._model if call.model is None else call.model
        if not isinstance(model, (str, Model)) and callable(model):
            model = await _resolve(model, call.request_context)
        if model is None:
            raise ConfigurationError(
                f"agent {self.name!r} has no model; give it one with model='provider:model'"
            )
        return self._inferred(model)

    def _inferred(self, model: Any) -> Model:
        """The backend of a model, made once for each name."""
        if isinstance(model, Model):
            return model
        known = self._models.get(model) if isinstance(model, str) else None
        if known is not None:
            return known
        from ..models import infer_model

        inferred = infer_model(model)
        if isinstance(model, str):
            self._models[model] = inferred
        return inferred


def _prompt(
    turn: Turn | None,
    instructions: str,
    call: Call,
    input: Sequence[Message],
    tools: ToolSet,
    model: Model,
) -> memory_context.Prompt:
    if turn is not None:
        return turn.prompt(instructions, call.system, call.context, tools=tools.text(), model=model.name)
    layers = memory_context.Layers(
        instructions=instructions, system=call.system, context=call.context, input=input, tools=tools.text()
    )
    return memory_context.build_prompt(layers)[0]


async def _resolve(value: Any, context: RequestContext) -> Any:
    """A value as it is; that of a function of the request context, awaited if need be."""
    if not callable(value):
        return value
    made = value(context)
    return await made if inspect.isawaitable(made) else made

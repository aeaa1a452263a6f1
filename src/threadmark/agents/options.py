"""What can be asked of one call of an agent, and checking it before anything happens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from .._errors import ConfigurationError, ValidationError
from .._ids import check_count, check_id, check_metadata, check_text, new_id
from .._types import Json, Message, Run, Speaker, Thread
from ..memory.options import MemoryOptions, MemorySettings
from ..memory.runs import OpenRuns
from ..memory.thread_spec import ThreadSpec
from ..memory.turn import Turn
from ..processors.base import ProcessorLike
from ..processors.pipeline import Entry, Kind, entries
from .completion import Check, CompletionChecks
from .hooks import Hooks, check_hooks
from .limits import Spending, UsageLimits, check_limits
from .output import Output
from .plan import ApprovalRule
from .prompts import Prompt, as_messages, with_speaker
from .request_context import RequestContext
from .tools import Function, Tool

if TYPE_CHECKING:
    from ..models import ModelLike

T = TypeVar("T")
MOST_SECONDS = 1e9
"""Longest time that can be given, some 31 years: far beyond that, dates and timers fail."""

Dynamic: TypeAlias = T | Callable[[RequestContext], T | Awaitable[T]]
"""A value, or a function of the request context that gives it, at once or when awaited."""

ThreadLike: TypeAlias = str | Mapping[str, Json] | Thread | ThreadSpec
Tools: TypeAlias = Sequence[Tool | Function]
Processors: TypeAlias = Sequence[ProcessorLike]


class TurnSource(Protocol):
    """What an agent needs of a memory: a turn to fill. `threadmark.Memory` is one."""

    async def open_turn(
        self,
        *,
        resource: str,
        thread: ThreadSpec,
        input: Sequence[Message],
        options: Mapping[str, Any],
        agent: str,
        run_id: str,
        paused: Run | None = None,
    ) -> Turn: ...

    @property
    def open_runs(self) -> OpenRuns: ...


class CallOptions(MemoryOptions, total=False):
    """Options of `agent.generate(...)` and `agent.stream(...)`, besides those of memory.

    resource: The owner of the conversation; given together with `thread`, or neither is.
    thread: The conversation: its id, or a mapping with `id`, `title` and `metadata` for when it is created.
    speaker: Who is talking; stored on the new user messages that have no speaker.
    context: Messages for this call only: sent after the history and before the prompt, never stored.
    request_context: Verified facts; its resource, thread and speaker win over those given here.
    instructions: Instead of the agent's.
    system: Added to the instructions.
    model: Instead of the agent's.
    settings: For the model, over the agent's, key by key.
    max_steps: Instead of the agent's.
    usage_limits: `UsageLimits(...)` of the run and its sub-agents together; instead of the agent's.
    output: Answer with an object: a type, a JSON schema, or `Output(...)`; instead of the agent's. It is then
        the result's `object`.
    timeout: Seconds from the call after which model and tools are stopped. The run then ends normally, with
        finish reason "timeout"; what was finished is kept and stored.
    step_timeout: The same for each single model call.
    input_processors, output_processors, error_processors: Instead of the agent's.
    max_processor_retries: Instead of the agent's.
    require_tool_approval: Whether a person must approve calls of tools, besides those whose tool says so: for
        all, or a function of a call's tool name and arguments, and perhaps the request context. If it fails,
        approval is required. Instead of the agent's.
    pause_ttl: Seconds that the run waits for a person at most; calls then count as declined. Instead of the
        agent's.
    auto_resume: Whether this message may answer a suspended call of the thread. Instead of the agent's.
    hooks: Instead of the agent's.
    completion: Checks of whether the task is done, or `CompletionChecks(...)`; instead of the agent's.
    run_id: Makes the call repeatable: if this run was finished before, its stored answer is returned
        (`result.replayed`) and no model is asked. While it is under way, or with another prompt, a call with
        the same id raises `ConflictError` before any model or tool is called. A run that failed before it
        called a tool is tried again.
    """

    resource: str | None
    thread: ThreadLike | None
    speaker: Speaker | None
    context: Sequence[Prompt]
    request_context: RequestContext | None
    instructions: Dynamic[str] | None
    system: str | None
    model: Dynamic[ModelLike] | None
    settings: Mapping[str, Json] | None
    max_steps: int | None
    usage_limits: UsageLimits | None
    output: Any
    timeout: float | None
    step_timeout: float | None
    input_processors: Dynamic[Processors] | None
    output_processors: Dynamic[Processors] | None
    error_processors: Dynamic[Processors] | None
    max_processor_retries: int | None
    require_tool_approval: ApprovalRule | None
    pause_ttl: float | None
    auto_resume: bool | None
    hooks: Hooks | None
    completion: CompletionChecks | Sequence[Check] | None
    run_id: str | None


_CALL_KEYS = CallOptions.__annotations__.keys() - MemoryOptions.__annotations__.keys()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of an agent, its arguments checked. What is `None` is the agent's to say."""

    input: list[Message]
    resource: str | None
    thread: ThreadSpec | None
    context: list[Message]
    request_context: RequestContext
    instructions: Dynamic[str] | None
    system: str
    model: Dynamic[ModelLike] | None
    settings: Mapping[str, Json]
    max_steps: int | None
    output: Output | None
    timeout: float | None
    step_timeout: float | None
    run_id: str
    may_repeat: bool
    """The caller named the run, so another call may be making the same one."""
    memory: Mapping[str, Any]
    processors: Mapping[Kind, tuple[Entry, ...] | Callable[[RequestContext], Any]]
    """Lists of processors by kind, those that are not the agent's."""
    max_processor_retries: int | None
    hooks: Hooks | None
    require_tool_approval: ApprovalRule | None = None
    pause_ttl: float | None = None
    auto_resume: bool | None = None
    depth: int = 0
    """How many agents stand above this one."""
    paused: Run | None = None
    """The run that this call goes on with."""
    source: TurnSource | None = None
    """The memory that run is in."""
    completion: CompletionChecks | None = None
    usage_limits: UsageLimits | None = None
    spending: Spending | None = None
    """What the agent above has used of its limits."""


def check_call(prompt: Prompt | Sequence[Prompt], options: Mapping[str, Any]) -> Call:
    """A call of checked arguments.

    Raises `ConfigurationError` for an option that there is not, and `ValidationError` for a value that
    cannot be.
    """
    memory = {name: value for name, value in options.items() if name not in _CALL_KEYS}
    MemorySettings().merge(memory)
    get = options.get
    request = RequestContext() if get("request_context") is None else options["request_context"]
    if not isinstance(request, RequestContext):
        raise ValidationError(f"request_context must be a RequestContext, not {type(request).__name__}")
    resource, thread = _ids(
        get("resource") if request.resource is None else request.resource,
        get("thread") if request.thread is None else request.thread,
    )
    # System messages are never stored, so they are no part of the turn; the model is told all the same.
    given = as_messages(prompt)
    if get("system") is not None:
        check_text("system", get("system"))
    system = [text for text in (get("system"), *(m.text for m in given if m.role == "system")) if text]
    messages = [message for message in given if message.role != "system"]
    if not messages:
        raise ValidationError("the prompt has only system messages; give it a user's")
    context = get("context")
    run_id, max_steps = get("run_id"), get("max_steps")
    retries = get("max_processor_retries")
    kinds: tuple[Kind, ...] = ("input", "output", "error")
    return Call(
        input=with_speaker(messages, get("speaker"), verified=request.speaker),
        resource=resource,
        thread=thread,
        context=as_messages(context) if context else [],
        request_context=request,
        instructions=get("instructions"),
        system="\n\n".join(system),
        model=get("model"),
        settings=check_metadata(get("settings") or {}, kind="settings"),
        max_steps=None if max_steps is None else check_count("max_steps", max_steps, least=1),
        output=None if get("output") is None else Output.of(options["output"]),
        timeout=check_seconds("timeout", get("timeout")),
        step_timeout=check_seconds("step_timeout", get("step_timeout")),
        run_id=new_id() if run_id is None else check_id("run", run_id),
        may_repeat=run_id is not None,
        memory=memory,
        processors={
            kind: check_processors(chosen, kind)
            for kind in kinds
            if (chosen := get(f"{kind}_processors")) is not None
        },
        max_processor_retries=None if retries is None else check_count("max_processor_retries", retries),
        require_tool_approval=check_rule(get("require_tool_approval")),
        pause_ttl=check_seconds("pause_ttl", get("pause_ttl")),
        auto_resume=check_flag("auto_resume", get("auto_resume")),
        hooks=check_hooks(get("hooks")),
        completion=CompletionChecks.of(get("completion")),
        usage_limits=check_limits(get("usage_limits")),
    )


def _ids(resource: Any, thread: Any) -> tuple[str | None, ThreadSpec | None]:
    if resource is None and thread is None:
        return None, None
    if resource is None or thread is None:
        missing = "resource" if resource is None else "thread"
        raise ValidationError(f"memory needs resource and thread together; {missing} is missing")
    check_id("resource", resource)
    spec = ThreadSpec.of(thread)
    if isinstance(thread, Thread) and thread.resource_id != resource:
        raise ValidationError(f"thread {thread.id!r} is not a thread of resource {resource!r}")
    return resource, spec


def check_seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MOST_SECONDS:
        raise ValidationError(f"{name} must be a positive number of seconds, 1e9 at most, not {value!r}")
    return float(value)


def check_rule(value: Any) -> ApprovalRule | None:
    """`value` as a rule of approval. Raises `ConfigurationError`."""
    if value is None or isinstance(value, bool):
        return value
    if callable(value):
        rule: ApprovalRule = value
        return rule
    raise ConfigurationError(f"require_tool_approval is True, False or a function, not {value!r}")


def check_flag(name: str, value: Any) -> bool | None:
    """`value` if it is true, false or not given. Raises `ConfigurationError`."""
    if value is None or isinstance(value, bool):
        return value
    raise ConfigurationError(f"{name} must be True or False, not {value!r}")


def check_processors(
    processors: Dynamic[Processors], kind: Kind
) -> tuple[Entry, ...] | Callable[[RequestContext], Any]:
    """A list of processors, checked; a function that gives one, as it is. Raises `ConfigurationError`."""
    return processors if callable(processors) else entries(processors, kind)


def check_agent_options(*, instructions: object, memory: object, tools: object) -> None:
    """Raise `ConfigurationError` for what cannot be an agent's instructions, memory or tools."""
    if isinstance(tools, Tool):
        raise ConfigurationError(f"tools must be a sequence; write [{tools.name}]")
    if not isinstance(instructions, str) and not callable(instructions):
        raise ConfigurationError(f"instructions must be text, not {type(instructions).__name__}")
    if memory is not None and not hasattr(memory, "open_turn") and not callable(memory):
        raise ConfigurationError(f"memory must be a Memory, not {type(memory).__name__}")

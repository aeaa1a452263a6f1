"""What an application says about the sub-agents of an agent: hooks, what they are shown, and how deep."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from .._errors import ConfigurationError, ValidationError
from .._ids import check_choice, check_count
from .._types import Message, Usage

if TYPE_CHECKING:
    from .request_context import RequestContext


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegationStart:
    """A delegation that is about to begin.

    `messages` is what the sub-agent is shown of the conversation, `resource_id` and `thread_id` where it will
    store its own (`None`: nowhere).
    """

    key: str
    prompt: str
    run_id: str
    tool_call_id: str
    agent: str
    depth: int
    messages: tuple[Message, ...]
    resource_id: str | None
    thread_id: str | None
    request_context: RequestContext


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegationChange:
    """What `on_start` wants otherwise; what is `None` stays.

    Args:
        reject: Do not call the sub-agent; the model is told this reason.
        prompt: Instead of the model's.
        instructions: Instead of the sub-agent's.
        max_steps: Instead of the sub-agent's.
        context: Entries added to the sub-agent's request context. They do not leak back.
    """

    reject: str | None = None
    prompt: str | None = None
    instructions: str | None = None
    max_steps: int | None = None
    context: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises `ValidationError` for what cannot be; resource, thread and speaker cannot be chosen."""
        for name in ("reject", "prompt", "instructions"):
            _check_text(name, getattr(self, name))
        if self.max_steps is not None:
            check_count("max_steps", self.max_steps, least=1)
        if not isinstance(self.context, Mapping) or not all(isinstance(key, str) for key in self.context):
            raise ValidationError("context must be a mapping of names to values")
        for name in ("resource", "thread", "speaker"):
            if name in self.context:
                raise ValidationError(f"context cannot set {name!r}: whose memory a sub-agent uses is fixed")


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegationEnd:
    """How a delegation ended: the answer's `text`, or the `error`; `usage` includes its own sub-agents."""

    key: str
    run_id: str
    tool_call_id: str
    agent: str
    text: str
    finish_reason: str
    usage: Usage
    resource_id: str | None
    thread_id: str | None
    error: Exception | None = None

    @property
    def success(self) -> bool:
        """Whether there is an answer."""
        return self.error is None


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegationResult:
    """What `on_complete` makes of a delegation.

    Args:
        text: Instead of the sub-agent's, for the agent's model and in the stored call.
        feedback: Added to what the agent's model is told.
        bail: End the run after this step; the sub-agent's text is the answer if the agent gave none.
    """

    text: str | None = None
    feedback: str | None = None
    bail: bool = False

    def __post_init__(self) -> None:
        """Raises `ValidationError` for what is no text."""
        for name in ("text", "feedback"):
            _check_text(name, getattr(self, name))


def _check_text(name: str, value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise ValidationError(f"{name} must be text, not {type(value).__name__}")


OnStart: TypeAlias = Callable[[DelegationStart], DelegationChange | Awaitable[DelegationChange | None] | None]
OnComplete: TypeAlias = Callable[
    [DelegationEnd], DelegationResult | Awaitable[DelegationResult | None] | None
]
MessageFilter: TypeAlias = Callable[[DelegationStart], Sequence[Message] | Awaitable[Sequence[Message]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegation:
    """How an agent delegates: `Agent(..., agents=[...], delegation=Delegation(...))`. Functions may be async.

    Args:
        on_start: Before a sub-agent is called: let it go on, change it, or reject it.
        message_filter: Which of `start.messages` the sub-agent is shown. Default: all.
        on_complete: After it has answered or failed: replace its text, add feedback, or end the run.
        share_messages: Whether sub-agents are shown the conversation, without tool calls; default true.
        share_system: Whether they are told the agent's instructions and working memory; default false.
        references: Whether each result of a sub-agent has a reference, which the agent's model can hand on to
            another sub-agent in place of the text; default false.
        max_shown: With `references`, how many characters of a result the agent's model is shown; default all.
            All of it is stored, and handed on.
        max_depth: How many agents may stand below one another; default 5. Deeper delegations are refused.
        on_hook_error: "warn" logs what a hook raises and goes on as if it were not there; "raise" fails the
            delegation. Default "warn".
    """

    on_start: OnStart | None = None
    message_filter: MessageFilter | None = None
    on_complete: OnComplete | None = None
    share_messages: bool = True
    share_system: bool = False
    references: bool = False
    max_shown: int | None = None
    max_depth: int = 5
    on_hook_error: Literal["warn", "raise"] = "warn"

    def __post_init__(self) -> None:
        for name in ("on_start", "message_filter", "on_complete"):
            hook = getattr(self, name)
            if hook is not None and not callable(hook):
                raise ConfigurationError(f"{name} must be a function, not {type(hook).__name__}")
        check_count("max_depth", self.max_depth, least=1)
        if self.max_shown is not None:
            check_count("max_shown", self.max_shown)
            if not self.references:
                raise ConfigurationError("max_shown needs references=True: the rest could not be reached")
        check_choice("on_hook_error", self.on_hook_error, ("warn", "raise"))

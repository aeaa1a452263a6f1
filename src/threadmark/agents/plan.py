"""What one run was asked to do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from .._types import Json, Message
from ..memory import context as memory_context
from ..models.base import Model
from ..processors.pipeline import Pipeline
from .request_context import RequestContext
from .tools import ToolSet

if TYPE_CHECKING:
    from .answering import Answering
    from .completion import CompletionChecks
    from .delegating import Delegating
    from .hooks import Hooks
    from .limits import Spending


ApprovalRule: TypeAlias = bool | Callable[..., Any]
"""Yes, no, or a function of a call's tool name and arguments, and perhaps the `RequestContext`."""


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
    output: Answering | None = None
    hooks: Hooks | None = None
    completion: CompletionChecks | None = None
    spending: Spending | None = None
    """What is used up of the limits of this run and those above it."""
    require_approval: ApprovalRule = False
    """Which calls a person must approve, besides those whose tool says so."""
    pause_ttl: float | None = None
    """Seconds that a paused run waits at most."""
    hand_over: Callable[[Any], Awaitable[Any]] | None = None
    """Asked once the input is accepted: the result of a run that goes on instead, or `None`."""
    delegating: Delegating | None = None
    record: Mapping[str, Json] = field(default_factory=dict)
    """What is stored of this call with a paused run."""


class TimeUpError(Exception):
    """A time limit of the caller's was reached."""

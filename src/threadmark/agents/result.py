"""What a run gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from .._codec import usage_from_dict
from .._types import FinishReason, Json, Message, Part, ReasoningPart, StepPart, TextPart, ToolPart, Usage
from ..memory.context import ContextReport
from ..processors.base import Tripwire
from .pending import PendingCall

if TYPE_CHECKING:
    from .completion import Verdict

_FINISH_REASONS = frozenset(get_args(FinishReason))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One model call of a run with the outcomes of its tool calls. `number` counts from 1."""

    number: int
    parts: tuple[Part, ...]
    model: str | None = None
    finish_reason: str | None = None
    usage: Usage = field(default_factory=Usage)
    provider: Mapping[str, Json] | None = None

    @property
    def text(self) -> str:
        """The text of this step."""
        return "".join([part.text for part in self.parts if isinstance(part, TextPart)])

    @property
    def tool_calls(self) -> tuple[ToolPart, ...]:
        """The calls of this step with their outcomes."""
        return tuple([part for part in self.parts if isinstance(part, ToolPart)])


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentResult:
    """The end of a run.

    `message` is the answer, `None` when nothing was produced; `messages` are those of this run: what was
    new in the input, then the answer. Of a stored turn they are as stored, with `seq`. `context` says what
    the model saw. `usage` is summed over all model calls. `finish_reason` is the model's, or "max-steps",
    "usage-limit", "timeout", "aborted", "error", "suspended" or "tripwire". `pending` are the calls that a
    suspended run waits for; `agent.approve`, `agent.decline` or `agent.resume` goes on with it. `tripwire`
    says why a processor stopped the run; there are no messages then, nothing is stored, and what was blocked
    is nowhere in the result. `replayed` is true when an earlier run with this `run_id` had given the answer;
    `context` is then empty. With `output` the answer's object is `object`, and `is_fallback` says that no
    answer fitted and this is what was to be given then. `completion` is what checks said of the last answer,
    if there are any.
    """

    run_id: str
    agent: str
    finish_reason: FinishReason
    message: Message | None = None
    messages: tuple[Message, ...] = ()
    usage: Usage = field(default_factory=Usage)
    context: ContextReport = field(default_factory=ContextReport)
    thread_id: str | None = None
    resource_id: str | None = None
    replayed: bool = False
    tripwire: Tripwire | None = None
    object: Any = None
    is_fallback: bool = False
    pending: tuple[PendingCall, ...] = ()
    completion: Verdict | None = None

    @property
    def text(self) -> str:
        """The text of all steps, joined as it stands."""
        return "" if self.message is None else self.message.text

    @property
    def reasoning(self) -> str:
        """The model's thinking of all steps, joined as it stands."""
        return "".join([part.text for part in self._parts if isinstance(part, ReasoningPart)])

    @property
    def tool_calls(self) -> tuple[ToolPart, ...]:
        """All tool calls with their outcomes, in order."""
        return tuple([part for part in self._parts if isinstance(part, ToolPart)])

    @property
    def steps(self) -> tuple[Step, ...]:
        """The model calls of the run, in order."""
        return steps_of(self._parts)

    @property
    def _parts(self) -> Sequence[Part]:
        return () if self.message is None else self.message.parts


def steps_of(parts: Sequence[Part]) -> tuple[Step, ...]:
    """The steps that an assistant message's parts hold. Parts before the first step mark are a step, too."""
    groups: list[tuple[StepPart, list[Part]]] = []
    for part in parts:
        if isinstance(part, StepPart):
            groups.append((part, []))
        elif groups:
            groups[-1][1].append(part)
        else:
            groups.append((StepPart(), [part]))
    return tuple(
        [
            Step(
                number=number,
                parts=tuple(rest),
                model=mark.model,
                finish_reason=mark.finish_reason,
                usage=usage_from_dict(dict(mark.usage or {})),
                provider=mark.provider,
            )
            for number, (mark, rest) in enumerate(groups, 1)
        ]
    )


def answer_reason(given: str | None) -> FinishReason:
    """A model's finish reason as that of an answer without open calls."""
    if given is None or given == "tool-calls":
        return "stop"
    return given if given in _FINISH_REASONS else "other"  # type: ignore[return-value]

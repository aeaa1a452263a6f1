"""What a run and all sub-agents below it may use up together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .._errors import ConfigurationError
from .._ids import check_count
from .._types import Json, Run, Usage

SPENT = "spent"
"""Where a stored run keeps what it has used up."""

USAGE = ("requests", "input_tokens", "output_tokens")
"""What of it a run's `usage` has, too."""


def spent_of(run: Run) -> Usage:
    """The usage of a run and of those below it."""
    spent = (run.state or {}).get(SPENT)
    return run.usage if spent is None else Usage(**{name: int(spent.get(name, 0)) for name in USAGE})


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLimits:
    """Limits of a run from which its sub-agents draw, too: `generate(..., usage_limits=UsageLimits(...))`.

    What is `None` has no limit. A limit stops the run before its next step; it ends normally then, with
    finish reason "usage-limit" and all that is finished. Tokens are known once a model has answered, so calls
    under way may exceed them. What a run has used is kept while it waits for a person.

    Args:
        requests: Most requests to models, those for structured output and checks included.
        steps: Most steps: model calls with their tools.
        tool_calls: Most tool calls, delegations included. Those beyond are not made; the model is told, and
            the run goes on.
        input_tokens: Most tokens sent.
        output_tokens: Most tokens answered.
        total_tokens: Most of both.

    Raises `ValidationError` for a limit that is no positive whole number.
    """

    requests: int | None = None
    steps: int | None = None
    tool_calls: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None

    def __post_init__(self) -> None:
        for name, limit in self.to_dict().items():
            check_count(name, limit, least=1)

    def to_dict(self) -> dict[str, Json]:
        """The limits that there are, as JSON."""
        return {f.name: limit for f in fields(self) if (limit := getattr(self, f.name)) is not None}


def check_limits(value: object) -> UsageLimits | None:
    """`value` if it is limits. Raises `ConfigurationError`."""
    if value is None or isinstance(value, UsageLimits):
        return value
    raise ConfigurationError(f"usage_limits must be UsageLimits(...), not {type(value).__name__}")


class Spending:
    """What a run has used of its limits, and what it adds to that of the run above it.

    `stored` is what it had used when it paused. Other processes may change that meanwhile, by deciding about
    other calls of the run; what this one adds is kept apart, in `own`. Below an agent with limits each run
    counts, so that its own record says what it has used.
    """

    __slots__ = ("above", "asking", "limits", "own", "stored")

    def __init__(
        self, limits: UsageLimits, above: Spending | None = None, stored: Mapping[str, Any] | None = None
    ) -> None:
        self.limits = limits.to_dict()
        self.above = above
        self.stored = dict(stored or {})
        self.own: dict[str, int] = {}
        self.asking = 0  # requests under way

    @classmethod
    def of(cls, limits: UsageLimits | None, above: Spending | None, paused: Run | None) -> Spending | None:
        """The spending of a run, or of one that goes on after a pause; `None` if nothing is limited."""
        if limits is None and above is None:
            return None
        stored = None if paused is None else (paused.state or {}).get(SPENT)
        return cls(limits or UsageLimits(), above, stored)

    def rebase(self, usage: Usage) -> None:
        """Take `usage` for what is used up so far, by whichever process."""
        for name in USAGE:
            self.stored[name] = getattr(usage, name)
            self.own.pop(name, None)

    def reached(self) -> str | None:
        """The name of a limit that allows no further step, here or above."""
        for name, limit in self.limits.items():
            if (
                name != "tool_calls"
                and self._used(name) + (self.asking if name == "requests" else 0) >= limit
            ):
                return name
        return None if self.above is None else self.above.reached()

    def begin_step(self) -> None:
        """One more step."""
        self._count("steps", 1)

    def take_tool_call(self) -> int | None:
        """Count one more tool call; or the limit, if it allows none."""
        spending: Spending | None = self
        while spending is not None:
            limit = spending.limits.get("tool_calls")
            if limit is not None and spending._used("tool_calls") >= limit:
                return int(limit)
            spending = spending.above
        self._count("tool_calls", 1)
        return None

    def ask(self, change: int) -> None:
        """A request begins (1) or has ended (-1)."""
        self.asking += change
        if self.above is not None:
            self.above.ask(change)

    def add(self, usage: Usage) -> None:
        """Count the usage of requests that have ended."""
        for name in USAGE:
            self._count(name, getattr(usage, name))

    def to_dict(self) -> dict[str, Json]:
        """What is used up, as it is stored with a run."""
        return {name: used for name in (*USAGE, "steps", "tool_calls") if (used := self._used(name))}

    def _used(self, name: str) -> int:
        if name == "total_tokens":
            return self._used("input_tokens") + self._used("output_tokens")
        return int(self.stored.get(name, 0)) + self.own.get(name, 0)

    def _count(self, name: str, more: int) -> None:
        self.own[name] = self.own.get(name, 0) + more
        if self.above is not None:
            self.above._count(name, more)

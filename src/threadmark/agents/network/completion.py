"""Whether a network's task is done: what a model says, or what checks of the application say."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ..._errors import ValidationError
from ..._sync import in_thread
from ..._types import Json, ToolPart
from ..calls import describe_error, stop_tasks


@dataclass(frozen=True, slots=True)
class Completion:
    """What the router says about the task."""

    is_complete: bool
    completion_reason: str = ""
    final_result: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckInput:
    """What a check sees: the user's `task`, the newest `result`, and all calls made so far."""

    task: str
    result: str
    calls: tuple[ToolPart, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What a check says: whether the task is done, and if not why, for the router to read.

    `final_result` is the answer then, in place of the newest result. Raises `ValidationError` for values of
    other types: a check that says nothing clear has not passed.
    """

    passed: bool
    reason: str = ""
    final_result: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.passed, bool):
            raise ValidationError(f"passed must be True or False, not {self.passed!r}")
        if not isinstance(self.reason, str):
            raise ValidationError(f"a reason must be text, not {type(self.reason).__name__}")
        if self.final_result is not None and not isinstance(self.final_result, str):
            raise ValidationError(f"final_result must be text, not {type(self.final_result).__name__}")


Check: TypeAlias = Callable[[CheckInput], CheckResult | bool | Awaitable[CheckResult | bool]]
"""A function, plain or async, that says whether a task is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether the task is done."""

    complete: bool
    reason: str = ""
    result: str | None = None
    results: list[dict[str, Json]] = field(default_factory=list)
    duration: float = 0.0
    timed_out: bool = False

    @classmethod
    def of(cls, completion: Completion) -> Verdict:
        """What a model said."""
        return cls(
            complete=completion.is_complete,
            reason=completion.completion_reason,
            result=completion.final_result,
            results=[
                {"name": "router", "passed": completion.is_complete, "reason": completion.completion_reason}
            ],
        )

    @property
    def feedback(self) -> str:
        """What the router is told when it is not done."""
        reasons = [str(item["reason"]) for item in self.results if not item["passed"] and item["reason"]]
        return "; ".join(reasons) or self.reason

    def to_json(self) -> dict[str, Json]:
        """As it is stored with the run."""
        return {"is_complete": self.complete, "completion_reason": self.reason}


async def judge(
    checks: Sequence[Check],
    mode: Literal["all", "any"],
    timeout: float,
    task: str,
    result: str,
    calls: tuple[ToolPart, ...],
) -> Verdict:
    """Run `checks` side by side. One that fails, or takes too long, has not passed."""
    began = time.monotonic()
    seen = CheckInput(task=task, result=result, calls=calls)
    tasks = [asyncio.ensure_future(_run(check, seen)) for check in checks]
    try:
        _, late = await asyncio.wait(tasks, timeout=timeout)
        await stop_tasks(list(late))
    except asyncio.CancelledError:
        await stop_tasks([task_ for task_ in tasks if not task_.done()])
        raise
    found: list[dict[str, Json]] = []
    final: str | None = None
    for check, task_ in zip(checks, tasks, strict=True):
        if task_ in late:
            said = CheckResult(passed=False, reason="it took too long")
        elif task_.cancelled():
            said = CheckResult(passed=False, reason="the check cancelled itself")
        else:
            said = task_.result()
        final = final or said.final_result
        found.append({"name": name_of(check), "passed": said.passed, "reason": said.reason})
    passed = [bool(item["passed"]) for item in found]
    complete = all(passed) if mode == "all" else any(passed)
    return Verdict(
        complete=complete,
        reason="; ".join([f"{item['name']}: {item['reason']}" for item in found if item["reason"]]),
        result=final,
        results=found,
        duration=round(time.monotonic() - began, 3),
        timed_out=bool(late),
    )


async def _run(check: Check, seen: CheckInput) -> CheckResult:
    try:
        made: Any = (
            check(seen)
            if inspect.iscoroutinefunction(check)
            else await in_thread(lambda: check(seen), f"threadmark-check-{name_of(check)[:40]}")
        )
        if inspect.isawaitable(made):
            made = await made
    except Exception as error:
        return CheckResult(passed=False, reason=f"the check failed: {describe_error(error)}")
    return made if isinstance(made, CheckResult) else CheckResult(passed=made is True)


def name_of(check: Check) -> str:
    """What a check is called."""
    return getattr(check, "__name__", type(check).__name__)

"""The whole kit in one call, for those who run no pytest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from ._harness import Harness
from ._registry import Behaviour, NotOffered, behaviours


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one behaviour went. `seconds` is wall time; `error` is set when it failed."""

    behaviour: Behaviour
    status: Literal["passed", "failed", "not offered"]
    seconds: float
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """How all of them went. `str(report)` is a table with the failures spelt out below it."""

    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> tuple[Outcome, ...]:
        return self._of("passed")

    @property
    def failed(self) -> tuple[Outcome, ...]:
        return self._of("failed")

    @property
    def not_offered(self) -> tuple[Outcome, ...]:
        """Behaviours that need a capability which the store does not declare."""
        return self._of("not offered")

    @property
    def ok(self) -> bool:
        """Whether none failed and some passed."""
        return not self.failed and bool(self.passed)

    def _of(self, status: str) -> tuple[Outcome, ...]:
        return tuple([outcome for outcome in self.outcomes if outcome.status == status])

    def __str__(self) -> str:
        lines = [f"{o.status:<11}  {o.seconds:7.3f} s  {o.behaviour.name}" for o in self.outcomes]
        lines.append(
            f"{len(self.passed)} passed, {len(self.failed)} failed, {len(self.not_offered)} not offered"
        )
        for outcome in self.failed:
            error = outcome.error
            told = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            indented = told.replace("\n", "\n    ")
            lines.append(f"\n{outcome.behaviour.name}\n    {indented}")
        return "\n".join(lines)


async def check(harness: Harness) -> Report:
    """Run every behaviour on stores of `harness`, one after the other, and report. Raises nothing."""
    outcomes: list[Outcome] = []
    for one in behaviours():
        start = time.perf_counter()
        status: Literal["passed", "failed", "not offered"] = "passed"
        error: BaseException | None = None
        try:
            try:
                await one(harness)
            finally:
                await harness.aclose()
        except NotOffered:
            status = "not offered"
        except Exception as caught:
            status, error = "failed", caught
        outcomes.append(Outcome(one, status, time.perf_counter() - start, error))
    return Report(tuple(outcomes))

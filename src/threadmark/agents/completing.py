"""Having checks judge an answer before the run may end with it."""

from __future__ import annotations

from .._types import DataPart, TextPart, ToolPart
from .completion import COMPLETION_PART, judge
from .events import CompletionEvent
from .state import RunState

NOT_DONE = "The task is not done yet."
"""What the model is told if checks say no more."""


async def check_completion(state: RunState, first: int, *, final: bool) -> str | None:
    """What the model has to go on with, after checks have judged the step whose parts begin at `first`.

    `None`: they passed, or there are none. `final`: the run's limits allow no further step.
    """
    checks = state.plan.completion
    if checks is None:
        return None
    history = () if state.turn is None else state.turn.history
    asked = state.input or [message for message in history if message.role == "user"][-1:]
    task = "\n\n".join([message.text for message in asked])
    verdict = await judge(
        checks.checks,
        checks.passes,
        checks.timeout,
        task,
        "".join([part.text for part in state.parts[first:] if isinstance(part, TextPart)]),
        tuple([part for part in state.parts if isinstance(part, ToolPart)]),
    )
    state.verdict = verdict
    state.spend(verdict.usage)
    if checks.store_feedback:
        data = {"passed": verdict.complete, "reason": verdict.reason, "results": verdict.results}
        state.parts.append(DataPart(name=COMPLETION_PART, data=data))
    if state.live is not None:
        state.live(
            CompletionEvent(
                run_id=state.plan.run_id,
                step=state.step,
                passed=verdict.complete,
                reason=verdict.reason,
                results=verdict.results,
                duration=verdict.duration,
                timed_out=verdict.timed_out,
                max_steps_reached=final and not verdict.complete,
            )
        )
    return None if verdict.complete else verdict.feedback or NOT_DONE

"""An answer that is there as a whole, told as events: that of a run which was finished before."""

from __future__ import annotations

from .._errors import ModelError
from .._types import DataPart, FilePart, Message, ReasoningPart, Run, TextPart, ToolPart
from ..memory.turn import Turn
from ..processors.base import Tripwire
from .events import Emit, ObjectResultEvent, StartEvent, StepFinishEvent, StepStartEvent
from .output import OBJECT_PART, Output, object_of
from .pending import pending_calls
from .result import AgentResult, answer_reason, steps_of
from .streaming import StreamedAnswer


def replay(turn: Turn, run: Run, agent: str, emit: Emit | None, output: Output | None = None) -> AgentResult:
    """The stored result of `run`, told as events to `emit`.

    Raises `ModelError` when the run had failed; its `result` is what was stored.
    """
    answers = [message for message in turn.answer if message.role == "assistant"]
    message = answers[-1] if answers else None
    found, is_fallback = object_of(message, output)
    result = AgentResult(
        run_id=run.id,
        agent=agent,
        finish_reason=run.finish_reason or "other",
        message=message,
        messages=turn.answer,
        usage=run.usage,
        thread_id=turn.thread_id,
        resource_id=turn.resource_id,
        replayed=True,
        tripwire=Tripwire(reason=run.error or "") if run.finish_reason == "tripwire" else None,
        object=found,
        is_fallback=is_fallback,
        pending=pending_calls(message.parts) if message is not None and run.status == "suspended" else (),
    )
    if emit is not None:
        _tell(result, emit)
    if run.status == "failed" or run.finish_reason == "error":
        error = ModelError(f"run {run.id!r} failed when it was made: {run.error}")
        error.result = result
        raise error
    return result


def _tell(result: AgentResult, emit: Emit) -> None:
    message: Message | None = result.message
    if message is None:
        return
    run_id = result.run_id
    emit(StartEvent(run_id=run_id, agent=result.agent, message_id=message.id))
    tell_answer(message, run_id, emit)


def tell_answer(message: Message, run_id: str, emit: Emit, *, after: int = 0) -> None:
    """The steps of a finished answer as events, those after step number `after`."""
    steps = steps_of(message.parts)
    for step in steps[after:]:
        emit(StepStartEvent(run_id=run_id, step=step.number, model=step.model))
        answer = StreamedAnswer(run_id, step.number, emit)
        for index, part in enumerate(step.parts):
            if isinstance(part, (TextPart, ReasoningPart, FilePart, ToolPart)):
                answer.tell(index, part)
            elif isinstance(part, DataPart) and part.name == OBJECT_PART:
                data = part.data if isinstance(part.data, dict) else {}
                emit(
                    ObjectResultEvent(
                        run_id=run_id, object=data.get("object"), fallback=data.get("fallback") is True
                    )
                )
        emit(
            StepFinishEvent(
                run_id=run_id,
                step=step.number,
                finish_reason="tool-calls" if step.tool_calls else answer_reason(step.finish_reason),
                is_continued=step.number < len(steps),
                usage=step.usage,
            )
        )

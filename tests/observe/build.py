"""Messages, batches and rows for tests of observing, on a fixed day."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from threadmark import Message, TextPart
from threadmark.memory.observe._types import ObserverBatch, ObserverResult, ReflectorBatch
from threadmark.memory.observe.observer import ModelObserver
from threadmark.memory.observe.reflector import ModelReflector
from threadmark.memory.observe.render import row_tokens
from threadmark.memory.observe.settings import ObservationalMemory
from threadmark.models.base import ModelRequest, ModelResponse
from threadmark.stores.base import Observation
from threadmark.testing import ScriptedModel

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)  # a Sunday


def said(*texts: str | Message, start: datetime = NOON) -> tuple[Message, ...]:
    """Messages `a1`, `a2`, ...: user and assistant in turn, a minute apart; messages as they are."""
    made = []
    for number, text in enumerate(texts, start=1):
        if isinstance(text, Message):
            message = text
        elif number % 2:
            message = Message.user(text, id=f"a{number}")
        else:
            message = Message.assistant(text, id=f"a{number}")
        when = message.created_at or start + timedelta(minutes=number - 1)
        made.append(message.replace(seq=number, created_at=when))
    return tuple(made)


def batch(*texts: str | Message, **fields: Any) -> ObserverBatch:
    """A batch of these messages."""
    return ObserverBatch(
        resource_id="ana",
        thread_id="t",
        job_id="job",
        messages=said(*texts),
        now=NOON + timedelta(hours=1),
        **fields,
    )


def observer(
    *replies: Any, settings: ObservationalMemory | None = None, **options: Any
) -> tuple[ModelObserver, ScriptedModel]:
    """An observer whose model gives these replies; options are those of `ObservationalMemory`."""
    model = ScriptedModel(list(replies))
    return ModelObserver(settings or ObservationalMemory(**options), model), model


def reflector(
    replies: Sequence[Any] | Callable[[ModelRequest], Any], **options: Any
) -> tuple[ModelReflector, ScriptedModel]:
    """A reflector whose model gives these replies."""
    model = ScriptedModel(replies)
    return ModelReflector(ObservationalMemory(**options), model), model


def row(number: int, text: str, **fields: Any) -> Observation:
    """A stored row `o<number>`, a minute after the one before."""
    values: dict[str, Any] = {
        "id": f"o{number}",
        "thread_id": "t",
        "kind": "fact",
        "priority": "medium",
        "text": text,
        "made_by": "observer",
        "origin": "user",
        "from_seq": number,
        "to_seq": number,
        "place": number,
        "recorded_at": NOON,
        "said_at": NOON + timedelta(minutes=number),
    }
    return Observation(**{**values, **fields})


def to_reflect(*rows: Observation, **fields: Any) -> ReflectorBatch:
    """A batch of rows to condense to a third."""
    tokens = sum(row_tokens(item) for item in rows)
    return ReflectorBatch(
        **{
            "resource_id": "ana",
            "thread_id": "t",
            "job_id": "job",
            "rows": rows,
            "tokens": tokens,
            "target_tokens": tokens // 3,
            "now": NOON,
            **fields,
        }
    )


def asked(model: ScriptedModel, index: int = -1) -> str:
    """The text that a request of the model showed it."""
    return model.requests[index].messages[0].text


def told(result: ObserverResult) -> list[tuple[str, str, tuple[str, ...]]]:
    """Priority, text and sources of each row."""
    return [
        (item.priority, item.text, tuple(source.message_id for source in item.sources))
        for item in result.rows
    ]


def length(text: str) -> ModelResponse:
    """An answer that was cut off."""
    return ModelResponse(parts=(TextPart(text),), finish_reason="length")

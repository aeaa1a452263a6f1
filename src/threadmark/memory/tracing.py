"""What the spans of memory tell: counts and ids, and what was read or stored only if content is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._tracing import Attributes, Span, is_tracing, span
from .._types import Json, Message

if TYPE_CHECKING:
    from .context import Prompt
    from .recall.result import RecallResult
    from .turn import Turn

MOST_IDS = 100
"""Most ids in one attribute: the newest."""


def reading(resource: str, thread: str) -> Span:
    """The span of what a turn reads; `tell_read` adds what that was."""
    return span("search_memory", _about("search_memory", resource, thread))


def tell_read(made: Span, turn: Turn) -> None:
    """Add what the turn holds."""
    if not made.is_recording:
        return
    found = None if turn._recall is None else turn._recall.result
    recalled = [] if found is None else [hit.message for hit in found.hits]
    counts = {"messages": len(turn.history), "recalled": len(recalled)}
    if turn._observed is not None:
        counts["observations"] = len(turn._observed.state.rows)
    if turn.settings.working_memory is not None:
        counts["working_memory"] = int(turn._state.working_memory is not None)
    made.set(
        {
            "gen_ai.memory.record.count": sum(counts.values()),
            **{f"threadmark.memory.{name}": count for name, count in counts.items()},
            "threadmark.memory.message_ids": _ids(turn.history),
            "threadmark.memory.recalled_ids": _ids(recalled) or None,
        }
    )
    made.content("gen_ai.memory.records", lambda: _records((*turn.history, *recalled)))


def writing(resource: str, thread: str, messages: Sequence[Message], run_id: str, status: str) -> Span:
    """The span of one write transaction of a turn."""
    if not is_tracing():
        return span("")
    return span(
        "upsert_memory",
        {
            **_about("upsert_memory", resource, thread),
            "gen_ai.memory.record.count": len(messages),
            "threadmark.memory.message_ids": _ids(messages),
            "threadmark.run.id": run_id,
            "threadmark.run.status": status,
        },
    )


def tell_written(made: Span, messages: Sequence[Message]) -> None:
    """Add what was written, if content is asked for."""
    made.content("gen_ai.memory.records", lambda: _records(messages))


def tell_prompt(made: Span, prompt: Prompt) -> None:
    """Add how a prompt was made."""
    if not made.is_recording:
        return
    report = prompt.report
    made.set(
        {
            "threadmark.context.tokens": report.tokens,
            "threadmark.context.messages": len(prompt.messages),
            "threadmark.context.blocks": list(dict.fromkeys([block.kind for block in report.blocks])),
            "threadmark.context.dropped": len(report.dropped) or None,
        }
    )


def retrieving(resource: str, top_k: int) -> Span:
    """The span of one search among the owner's messages; `tell_found` adds what it found."""
    if not is_tracing():
        return span("")
    return span("retrieval", {**_about("retrieval", resource, None), "gen_ai.retrieval.top_k": top_k})


def tell_found(made: Span, result: RecallResult) -> None:
    """Add what a search found."""
    if not made.is_recording:
        return
    hits = [hit.message for hit in result.hits]
    made.set(
        {
            "threadmark.retrieval.count": len(hits),
            "threadmark.retrieval.ids": _ids(hits),
            "threadmark.retrieval.mode": result.mode,
            "threadmark.retrieval.degraded": result.degraded is not None,
        }
    )
    made.content("gen_ai.retrieval.query.text", lambda: result.query)
    made.content(
        "gen_ai.retrieval.documents",
        lambda: [
            {"id": hit.message.id, "score": hit.score, "content": hit.message.text} for hit in result.hits
        ],
    )


def _about(operation: str, resource: str, thread: str | None) -> Attributes:
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.conversation.id": thread,
        "threadmark.resource.id": resource,
    }


def _ids(messages: Sequence[Message]) -> list[str]:
    return [message.id for message in messages[-MOST_IDS:]]


def _records(messages: Sequence[Message]) -> list[Json]:
    from ..models.tracing import messages_json

    return [{"id": message.id, "content": messages_json([message])} for message in messages]

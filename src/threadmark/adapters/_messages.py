"""One run of a Pydantic AI agent as the messages of a turn: its input, and its answer with all steps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic_ai import messages as pai

from .._codec import to_json
from .._ids import new_id
from .._types import DataPart, Json, Message, Part, Speaker, StepPart, TextPart, ToolPart, Usage
from ..agents.output import OBJECT_PART
from ..models._convert import from_model_messages
from ..models._response import to_response

METADATA = "threadmark"
"""Where a message of Pydantic AI tells which of ours it is, so that giving it again makes no second one."""


def mark(message: pai.ModelMessage, id_: str) -> None:
    """Say in the metadata of `message` that it is stored under `id_`."""
    message.metadata = {**(message.metadata or {}), METADATA: {"message_id": id_}}


def marked(message: pai.ModelMessage) -> str | None:
    """The id that `message` is stored under, if it says so."""
    found = (message.metadata or {}).get(METADATA)
    id_ = found.get("message_id") if isinstance(found, dict) else None
    return id_ if isinstance(id_, str) and id_ else None


def asks(message: pai.ModelMessage) -> bool:
    """Whether `message` begins a turn: a user says something in it, and it brings no outcome of a tool."""
    kinds = {part.part_kind for part in message.parts}
    return (
        isinstance(message, pai.ModelRequest)
        and "user-prompt" in kinds
        and kinds.isdisjoint(("tool-return", "retry-prompt"))
    )


def prompt_message(prompt: str | Sequence[pai.UserContent], speaker: Speaker | None) -> Message:
    """A run's prompt, files and all. When it was said is for memory's clock to say."""
    (message,) = from_model_messages([pai.ModelRequest([pai.UserPromptPart(prompt)])])
    return message.replace(created_at=None, speaker=speaker)


def history_messages(history: Sequence[pai.ModelMessage]) -> list[Message]:
    """A history that a caller gives, under the ids that it was stored under."""
    out: list[Message] = []
    begins = [index for index, message in enumerate(history) if asks(message)]
    for first, after in zip([0, *begins], [*begins, len(history)], strict=True):
        turn = history[first:after]
        made = from_model_messages(_kept(turn, ())) if turn else []
        answers = [index for index, message in enumerate(made) if message.role == "assistant"]
        for index, message in enumerate(made):
            source = turn[0] if index == 0 else _first_response(turn) if index in answers[-1:] else None
            id_ = None if source is None else marked(source)
            out.append(message if id_ is None else message.replace(id=id_))
    return out


def answer_messages(
    messages: Sequence[pai.ModelMessage],
    id_: str,
    output_tools: Collection[str],
    shown: Sequence[tuple[str, Any]] = (),
) -> list[Message]:
    """What a run added after its prompt: one assistant message, or several if somebody spoke in between.

    The last assistant message has the id `id_`. An answer that was not accepted leaves no trace, and one
    that came as a call of `output_tools` is text, as in the agents of Threadmark. `shown` is what tools, by
    their names, showed the model beside what they gave: it stands in the voice of a user, and is no user's.
    """
    kept = _kept(messages, output_tools)
    made = from_model_messages(kept)
    said = [part for message in kept for part in message.parts if isinstance(part, pai.UserPromptPart)]
    places = [index for index, message in enumerate(made) if message.role == "user"]
    for index, part in zip(places, said, strict=True):
        name = next((tool for tool, content in shown if _same(content, part.content)), None)
        if name is not None:
            made[index] = made[index].replace(speaker=Speaker(id=f"tool:{name}", name=name, role="tool"))
    last = max([n for n, message in enumerate(made) if message.role == "assistant"], default=None)
    return [
        message.replace(id=id_ if index == last else new_id(), parts=_as_text(message.parts, output_tools))
        if message.role == "assistant"
        else message
        for index, message in enumerate(made)
        if message.role != "system"
    ]


def _same(one: Any, other: Any) -> bool:
    """Whether two contents of a prompt are the same."""
    texts = isinstance(one, str), isinstance(other, str)
    return bool(one == other if any(texts) else list(one) == list(other))


def usage_of(messages: Sequence[pai.ModelMessage]) -> Usage:
    """What the answers in `messages` cost."""
    used = Usage()
    for message in messages:
        if isinstance(message, pai.ModelResponse):
            used += to_response(message).usage
    return used


def _first_response(messages: Sequence[pai.ModelMessage]) -> pai.ModelMessage | None:
    return next((message for message in messages if isinstance(message, pai.ModelResponse)), None)


def _kept(messages: Sequence[pai.ModelMessage], output_tools: Collection[str]) -> list[pai.ModelMessage]:
    """`messages` without answers that were rejected, and without what belongs to no conversation."""
    kept: list[pai.ModelMessage] = []
    called: set[str] = set()
    for message in messages:
        if isinstance(message, pai.ModelResponse):
            if not message.parts:
                continue
            message = _own(message)
            if getattr(message, "state", "complete") == "interrupted":
                message = _cut_off(message)
            called |= {part.tool_call_id for part in message.parts if isinstance(part, pai.ToolCallPart)}
            kept.append(message)
            continue
        if any(_rejects(part, output_tools) for part in message.parts):
            _drop_rejected(kept, output_tools)
        parts = [
            part
            for part in message.parts
            if isinstance(part, pai.UserPromptPart)
            or (_is_outcome(part, called) and not _rejects(part, output_tools))
        ]
        if parts:
            kept.append(replace(message, parts=parts))
    return kept


def _is_outcome(part: Any, called: Collection[str]) -> bool:
    """Whether `part` is the outcome of a call in the same messages."""
    return (
        part.part_kind in ("tool-return", "retry-prompt")
        and part.tool_name is not None
        and part.tool_call_id in called
    )


def _rejects(part: Any, output_tools: Collection[str]) -> bool:
    """Whether `part` says that an answer was not accepted; how that is said depends on the version."""
    if part.part_kind == "retry-feedback":
        return True
    if part.part_kind == "retry-prompt":
        return part.tool_name is None or part.tool_name in output_tools
    return part.part_kind == "tool-return" and part.outcome == "retried" and part.tool_name in output_tools


def _drop_rejected(kept: list[pai.ModelMessage], output_tools: Collection[str]) -> None:
    """Take the last answer away, if it called nothing but tools that give the answer."""
    if kept and isinstance(last := kept[-1], pai.ModelResponse):
        calls = [part for part in last.parts if isinstance(part, pai.ToolCallPart)]
        if all(call.tool_name in output_tools for call in calls):
            kept.pop()
        else:
            parts = [part for part in last.parts if getattr(part, "tool_name", None) not in output_tools]
            kept[-1] = replace(last, parts=parts)


def _own(message: pai.ModelResponse) -> pai.ModelResponse:
    """An answer without what the framework noted on it for itself."""
    metadata = {key: value for key, value in (message.metadata or {}).items() if key != METADATA}
    changes: dict[str, Any] = {"metadata": metadata or None}
    changes |= {name: None for name in ("run_id", "conversation_id", "model_id") if hasattr(message, name)}
    return replace(message, **changes)


def _cut_off(message: pai.ModelResponse) -> pai.ModelResponse:
    """What is kept of an answer that was stopped in the middle: its text."""
    parts = [part for part in message.parts if isinstance(part, pai.TextPart) and part.content]
    return pai.ModelResponse(parts=parts, model_name=message.model_name, timestamp=message.timestamp)


def _as_text(parts: Sequence[Part], output_tools: Collection[str]) -> list[Part]:
    """`parts` with the answer that came as a tool call made text."""
    out: list[Part] = []
    for part in parts:
        if isinstance(part, ToolPart) and part.tool_name in output_tools and part.state == "result":
            text = part.args if isinstance(part.args, str) else to_json(part.args, "the answer")
            value: Mapping[str, Json] = {"object": part.args, "fallback": False}
            out = [kept for kept in out if not isinstance(kept, TextPart) or _is_earlier(kept, out)]
            out += [TextPart(text), DataPart(name=OBJECT_PART, data=value)]
        else:
            out.append(part)
    return out


def _is_earlier(part: Part, parts: Sequence[Part]) -> bool:
    """Whether `part` is of a step before the last."""
    last = max([n for n, other in enumerate(parts) if isinstance(other, StepPart)], default=0)
    return any(part is other for other in parts[:last])


def with_parts(request: pai.ModelRequest, like: pai.ModelRequest) -> pai.ModelRequest:
    """`request` with what the framework put on `like`, in whose place it is sent."""
    changes: dict[str, Any] = {"instructions": like.instructions, "metadata": like.metadata}
    for name in ("run_id", "conversation_id", "timestamp"):
        if hasattr(like, name):
            changes[name] = getattr(like, name)
    return replace(request, **changes)

"""One answer of a model, between Pydantic AI's `ModelResponse` and our parts, without loss either way.

Pydantic AI's own JSON form of its messages is the bridge: applications keep it in databases, so it is the
steadiest thing it has, and a field that a later version adds passes through here untouched. What our parts
have no field for goes into their `provider`, under Pydantic AI's names. Three keys there are ours:

- `part_kind`: the part is of a kind that we have no type for, kept as the nearest one;
- `return`: what belongs to the result of a tool that the provider itself ran;
- `usage` (of a step): counts beyond those of `Usage`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, cast

from pydantic import ValidationError as PydanticValidationError
from pydantic_ai import messages as pai

from .._codec import to_json
from .._errors import ModelError
from .._types import FilePart, Json, Part, ReasoningPart, StepPart, TextPart, ToolPart, Usage
from ._args import parse_args
from .base import ModelResponse, ResponsePart

_USAGE: Final = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
_FINISH: Final = {"content_filter": "content-filter", "tool_call": "tool-calls"}
_FINISH_BACK: Final = {ours: theirs for theirs, ours in _FINISH.items()}
_IMPLIED: Final[dict[str, Json]] = {"outcome": "success", "state": "complete", "kind": "response"}


# -- from the provider -------------------------------------------------------------------------------


def to_response(response: pai.ModelResponse) -> ModelResponse:
    """The answer in our types. Raises `ModelError` if it has a part of a kind that we do not know."""
    dumped = dump_messages([response])[0]
    parts = _to_parts(dumped.pop("parts"), response.parts)
    counts: dict[str, Json] = dumped.pop("usage")
    usage = Usage(**{name: counts.pop(name, 0) for name in _USAGE}, requests=1)
    finish = dumped.pop("finish_reason")
    model = dumped.pop("model_name")
    provider = _rest(dumped)
    if more := {name: value for name, value in counts.items() if value}:
        provider["usage"] = more
    return ModelResponse(
        parts=tuple(parts),
        usage=usage,
        model=model,
        finish_reason=_FINISH.get(finish, finish),
        provider=provider or None,
    )


def to_part(part: pai.ModelResponsePart) -> ResponsePart:
    """One part of an answer that may still be streaming in."""
    return _to_parts(dump_messages([pai.ModelResponse(parts=[part])])[0]["parts"], [part])[0]


def with_return(call: ToolPart, part: pai.ModelResponsePart, gap: int = 0) -> ToolPart:
    """`call` of a tool that the provider ran, with its result `part`, which came `gap` parts later."""
    dumped = dump_messages([pai.ModelResponse(parts=[part])])[0]["parts"][0]
    return _merge(call, dumped, gap)


def dump_messages(messages: Sequence[pai.ModelMessage]) -> list[dict[str, Any]]:
    """Pydantic AI's JSON form of `messages`."""
    # Its warnings are about kinds of later versions, which are checked here.
    dumped = pai.ModelMessagesTypeAdapter.dump_python(list(messages), mode="json", warnings=False)
    return cast("list[dict[str, Any]]", dumped)


def load_message(dumped: dict[str, Any]) -> pai.ModelMessage:
    """The reverse of `dump_messages` for one message."""
    return pai.ModelMessagesTypeAdapter.validate_python([dumped])[0]


def call_places(parts: Iterable[pai.ModelResponsePart]) -> list[int | None]:
    """For each part the place of the call that it is the result of, or `None` if it stands for itself."""
    places: list[int | None] = []
    waiting: dict[str, int] = {}
    for place, part in enumerate(parts):
        if isinstance(part, pai.NativeToolReturnPart):
            places.append(waiting.pop(part.tool_call_id, None))
            continue
        if isinstance(part, pai.NativeToolCallPart):
            waiting[part.tool_call_id] = place
        places.append(None)
    return places


def _to_parts(dumped: list[dict[str, Any]], live: Sequence[pai.ModelResponsePart]) -> list[ResponsePart]:
    parts: dict[int, ResponsePart] = {}
    for place, called in enumerate(call_places(live)):
        if called is None:
            parts[place] = _to_part(dumped[place]["part_kind"], dumped[place], live[place])
        else:
            call = cast(ToolPart, parts[called])
            parts[called] = _merge(call, dumped[place], place - called - 1)
    return list(parts.values())


def _to_part(kind: str, part: dict[str, Any], source: pai.ModelResponsePart) -> ResponsePart:
    if kind == "text":
        return TextPart(part["content"], _rest(part, "part_kind", "content") or None)
    if kind == "thinking":
        rest = _rest(part, "part_kind", "content", "signature")
        return ReasoningPart(part["content"], part.get("signature"), rest or None)
    if kind in ("tool-call", "builtin-tool-call"):
        return ToolPart(
            tool_call_id=part["tool_call_id"],
            tool_name=part["tool_name"],
            args=parse_args(part["args"]),
            provider_executed=kind == "builtin-tool-call",
            provider=_rest(part, "part_kind", "tool_call_id", "tool_name", "args") or None,
        )
    if kind == "builtin-tool-return":  # its call was in an earlier answer
        return ToolPart(
            tool_call_id=part["tool_call_id"],
            tool_name=part["tool_name"],
            state="result",
            output=part["content"],
            provider_executed=True,
            provider={
                "part_kind": kind,
                "return": _rest(part, "part_kind", "tool_call_id", "tool_name", "content"),
            },
        )
    if kind == "file":
        content = cast(pai.FilePart, source).content
        rest = _rest(part, "part_kind", "content")
        if content.vendor_metadata is not None:
            rest["vendor_metadata"] = part["content"]["vendor_metadata"]
        name = file_name(content)
        return FilePart(media_type=content.media_type, data=content.data, name=name, provider=rest or None)
    if kind == "compaction":  # the provider's summary of what it dropped: thinking, not answer
        rest = {"part_kind": kind} | _rest(part, "part_kind", "content")
        return ReasoningPart(part["content"] or "", None, rest | _null(part, "content"))
    if kind == "speech":
        rest = {"part_kind": kind} | _rest(part, "part_kind", "transcript")
        return TextPart(part["transcript"] or "", rest | _null(part, "transcript"))
    raise ModelError(f"the model answered with a part of kind {kind!r}, which this version does not know")


def file_name(content: pai.BinaryContent) -> str | None:
    """What the file was called, or `None` if Pydantic AI made up its identifier."""
    unnamed = pai.BinaryContent(content.data, media_type=content.media_type).identifier
    return None if content.identifier == unnamed else content.identifier


def _merge(call: ToolPart, result: dict[str, Any], gap: int) -> ToolPart:
    rest = _rest(result, "part_kind", "tool_call_id", "content")
    if rest.get("tool_name") == call.tool_name:
        del rest["tool_name"]
    if gap:
        rest["gap"] = gap
    provider = {**(call.provider or {}), "return": rest}
    return replace(call, state="result", output=result["content"], provider=provider)


def _rest(dumped: Mapping[str, Any], *taken: str) -> dict[str, Json]:
    return {
        name: value
        for name, value in dumped.items()
        if value is not None and name not in taken and _IMPLIED.get(name) != value
    }


def _null(dumped: Mapping[str, Any], name: str) -> dict[str, Json]:
    """Marks that `name` was absent, where our part has to hold an empty text."""
    return {name: None} if dumped[name] is None else {}


# -- back to the provider ----------------------------------------------------------------------------


def from_step(step: StepPart | None, parts: Iterable[Part]) -> pai.ModelResponse:
    """The answer that `step` and the parts after it came from. Outcomes of our own tools are not in it.

    Metadata that the installed Pydantic AI cannot read is left out rather than making the thread unusable.
    """
    placed = _from_parts(parts)
    dumped: dict[str, Any] = {"kind": "response", "parts": placed}
    if step is not None:
        usage = {name: step.usage[name] for name in _USAGE if name in step.usage} if step.usage else {}
        provider = dict(step.provider or {})
        usage.update(provider.pop("usage", None) or {})
        finish = step.finish_reason
        dumped |= provider | {"kind": "response", "parts": placed, "usage": usage, "model_name": step.model}
        dumped["finish_reason"] = _FINISH_BACK.get(finish, finish) if finish else None
    try:
        return cast(pai.ModelResponse, load_message(dumped))
    except PydanticValidationError:
        return pai.ModelResponse(parts=[_readable(part) for part in placed])


def _readable(dumped: dict[str, Any]) -> pai.ModelResponsePart:
    for candidate in (dumped, _plain(dumped)):
        try:
            message = load_message({"kind": "response", "parts": [candidate]})
        except PydanticValidationError:
            continue
        return cast(pai.ModelResponse, message).parts[0]
    raise ModelError(f"a stored part of kind {dumped['part_kind']!r} cannot be sent to the model")


def _plain(dumped: dict[str, Any]) -> dict[str, Any]:
    """The part without anything a provider attached; of a kind that every version reads."""
    kind = {"compaction": "thinking", "speech": "text"}.get(dumped["part_kind"], dumped["part_kind"])
    plain = {"part_kind": kind}
    plain |= {
        name: dumped[name] for name in ("tool_call_id", "tool_name", "args", "content") if name in dumped
    }
    if kind in ("thinking", "text"):
        plain["content"] = dumped.get("content") or dumped.get("transcript") or ""
    return plain


def _from_parts(parts: Iterable[Part]) -> list[dict[str, Any]]:
    placed: list[dict[str, Any]] = []
    waiting: list[tuple[int, dict[str, Any]]] = []  # results, and where in the response each one stood
    for part in parts:
        dumped, result = _from_part(part)
        placed += dumped
        if result is not None:
            waiting.append((len(placed) + result.pop("gap", 0), result))
            waiting.sort(key=lambda item: item[0])
        while waiting and waiting[0][0] <= len(placed):
            placed.append(waiting.pop(0)[1])
    return placed + [result for _, result in waiting]


def _from_part(part: Part) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The JSON form of `part` (none if it is not for a model), and of its result if the provider ran it."""
    provider: dict[str, Any] = dict(getattr(part, "provider", None) or {})
    kind = provider.pop("part_kind", None)
    if isinstance(part, TextPart):
        if kind == "speech":
            return [{"transcript": part.text} | provider | {"part_kind": kind, "speaker": "assistant"}], None
        return [provider | {"part_kind": "text", "content": part.text}], None
    if isinstance(part, ReasoningPart):
        if kind == "compaction":
            return [{"content": part.text} | provider | {"part_kind": kind}], None
        return [provider | {"part_kind": "thinking", "content": part.text, "signature": part.signature}], None
    if isinstance(part, FilePart):
        if part.data is None:  # a model cannot have answered with an address; it came from an import
            return [
                {"part_kind": "text", "content": f"[file {part.name or ''} {part.media_type}: {part.url}]"}
            ], None
        content = pai.BinaryContent(
            part.data,
            media_type=part.media_type,
            identifier=part.name,
            vendor_metadata=provider.pop("vendor_metadata", None),
        )
        return [provider | {"part_kind": "file", "content": content}], None
    if isinstance(part, ToolPart):
        return _from_tool(part, kind, provider)
    return [], None


def _from_tool(
    part: ToolPart, kind: str | None, provider: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    named = {"tool_call_id": part.tool_call_id, "tool_name": part.tool_name}
    returned = provider.pop("return", None)
    args = part.args if isinstance(part.args, (str, dict)) else to_json(part.args, "tool arguments")
    call = provider | named | {"args": args}
    if not part.provider_executed:
        return [call | {"part_kind": "tool-call"}], None
    call["part_kind"] = "builtin-tool-call"
    if part.state == "call":
        return [call], None
    if part.state != "result":  # cut off: a provider takes back only calls that it finished
        return [], None
    if returned is None:
        returned = {"provider_name": provider.get("provider_name")}
    result = named | returned | {"part_kind": "builtin-tool-return", "content": part.output}
    return ([result], None) if kind == "builtin-tool-return" else ([call], result)

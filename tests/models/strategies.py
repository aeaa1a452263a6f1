"""Random messages of both sides."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from pydantic_ai import messages as pai
from pydantic_ai.usage import RequestUsage

from threadmark import (
    DataPart,
    ErrorPart,
    FilePart,
    Message,
    ReasoningPart,
    StepPart,
    TextPart,
    ToolPart,
)
from threadmark.models._args import parse_args

unhurried = settings(deadline=None)  # other work on the machine is no failure
texts = st.text(max_size=12)
names = st.text("abcdefgh_", min_size=1, max_size=8)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts, json_values, max_size=3)
details = st.none() | st.dictionaries(names, json_values, min_size=1, max_size=3)
ids = st.none() | names
providers = st.none() | st.sampled_from(["openai", "anthropic", "google"])
times = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)).map(
    lambda moment: moment.replace(tzinfo=UTC)
)
media = st.sampled_from(["image/png", "audio/wav", "video/mp4", "application/pdf", "application/x-thing"])
arguments = (
    st.none() | objects | texts | st.sampled_from(['{"a": 1}', "[1]", '"x"', "{", '{"a": NaN}', "1e999"])
)


def binary() -> st.SearchStrategy[pai.BinaryContent]:
    return st.builds(
        lambda data, kind, name, extra: pai.BinaryContent(
            data, media_type=kind, identifier=name, vendor_metadata=extra
        ),
        st.binary(max_size=20),
        media,
        ids,
        details,
    )


def _attached(**fields: st.SearchStrategy[Any]) -> dict[str, st.SearchStrategy[Any]]:
    return {"id": ids, "provider_name": providers, "provider_details": details, **fields}


def _native(call_id: str) -> st.SearchStrategy[list[pai.ModelResponsePart]]:
    """A tool that the provider ran: its call, its result, or both."""
    call: st.SearchStrategy[Any] = st.builds(
        pai.NativeToolCallPart, names, arguments, st.just(call_id), tool_kind=st.none(), **_attached()
    )
    result: st.SearchStrategy[Any] = st.builds(
        pai.NativeToolReturnPart,
        names,
        json_values | binary().map(lambda content: [content]),
        st.just(call_id),
        metadata=details,
        timestamp=times,
        outcome=st.sampled_from(["success", "failed"]),
        provider_name=providers,
        provider_details=details,
    )
    return st.one_of(
        call.map(lambda part: [part]),
        result.map(lambda part: [part]),
        st.tuples(call, result).map(list),
    )


def _citations() -> st.SearchStrategy[Any]:
    if not hasattr(pai, "Citation"):
        return st.none()
    source = st.builds(pai.WebCitationSource, texts, title=ids, excerpts=st.lists(texts, max_size=2))
    anchor = st.just(pai.ContentCitationAnchor(start=0, end=2))
    return st.none() | st.lists(
        st.builds(pai.Citation, st.lists(source, min_size=1, max_size=2), anchor=st.none() | anchor),
        max_size=2,
    )


def response_part_strategies() -> dict[str, st.SearchStrategy[Any]]:
    """How to make each kind of part that the installed Pydantic AI has in its answers."""
    text_fields = _attached()
    if "citations" in pai.TextPart.__dataclass_fields__:
        text_fields["citations"] = _citations()
    made = {
        "text": st.builds(pai.TextPart, texts, **text_fields),
        "thinking": st.builds(pai.ThinkingPart, texts, signature=ids, **_attached()),
        "file": st.builds(pai.FilePart, binary(), **_attached()),
        "tool-call": st.builds(pai.ToolCallPart, names, arguments, names, tool_kind=st.none(), **_attached()),
        "compaction": st.builds(pai.CompactionPart, st.none() | texts, **_attached()),
    }
    if hasattr(pai, "SpeechPart"):
        made["speech"] = st.builds(
            pai.SpeechPart,
            speaker=st.just("assistant"),
            transcript=st.none() | texts,
            audio=st.none() | binary(),
            interrupted_at_ms=st.none() | st.integers(0, 9999),
            **_attached(),
        )
    return made


@st.composite
def response_parts(draw: st.DrawFn) -> list[pai.ModelResponsePart]:
    parts: list[pai.ModelResponsePart] = draw(
        st.lists(st.one_of(*response_part_strategies().values()), max_size=4)
    )
    for number in range(draw(st.integers(0, 3))):
        # A result comes after its call, at any distance; ids repeat now and then.
        pieces = draw(_native(f"native-{draw(st.integers(0, number))}"))
        place = draw(st.integers(0, len(parts)))
        for piece in pieces:
            parts.insert(place, piece)
            place = draw(st.integers(place + 1, len(parts)))
    return parts


_COST = {"cost": st.none() | st.just(Decimal("0.0125"))}
usages = st.builds(
    RequestUsage,
    input_tokens=st.integers(0, 999),
    output_tokens=st.integers(0, 999),
    cache_read_tokens=st.integers(0, 99),
    cache_write_tokens=st.integers(0, 99),
    output_audio_tokens=st.integers(0, 9),
    details=st.dictionaries(names, st.integers(0, 99), max_size=2),
    **(
        {"cost": st.none() | st.just(Decimal("0.0125"))}
        if "cost" in RequestUsage.__dataclass_fields__
        else {}
    ),
)

# Fields that only some versions have.
_LATER: dict[str, st.SearchStrategy[Any]] = {
    "model_id": ids,
    "canonical_system": providers,
    "history_digest": ids,
}
responses = st.builds(
    pai.ModelResponse,
    parts=response_parts(),
    usage=usages,
    model_name=ids,
    timestamp=times,
    provider_name=providers,
    provider_url=ids,
    provider_details=details,
    provider_response_id=ids,
    finish_reason=st.sampled_from([None, "stop", "length", "content_filter", "tool_call", "error"]),
    metadata=details,
    run_id=ids,
    **{name: made for name, made in _LATER.items() if name in pai.ModelResponse.__dataclass_fields__},
)


# -- ours --------------------------------------------------------------------------------------------

attached = st.none() | st.fixed_dictionaries(
    {"provider_name": st.just("openai")}, optional={"id": names, "provider_details": objects}
)
foreign = attached | objects  # metadata of whatever origin
our_arguments = objects | texts.filter(lambda text: text != "" and parse_args(text) == text)
our_files = st.builds(
    lambda kind, data, name: FilePart(media_type=kind, data=data, name=name),
    media,
    st.binary(max_size=20),
    ids,
)
links = st.builds(
    lambda kind, name: FilePart(media_type=kind, url=f"https://example.org/{name}", name=name), media, names
)


@st.composite
def tool_parts(draw: st.DrawFn) -> ToolPart:
    state: Any = draw(st.sampled_from(["call", "result", "error", "denied", "interrupted"]))
    return ToolPart(
        tool_call_id=draw(st.uuids().map(str)),
        tool_name=draw(names),
        args=draw(our_arguments),
        state=state,
        output=draw(json_values) if state == "result" else None,
        error=draw(st.none() | texts.filter(bool)) if state not in ("call", "result") else None,
        provider_executed=draw(st.booleans()),
        provider=draw(foreign),
    )


steps = st.builds(
    lambda model, finish, provider: StepPart(
        model=model,
        finish_reason=finish,
        usage={"input_tokens": 3, "output_tokens": 2, "requests": 1},
        provider=provider,
    ),
    ids,
    st.sampled_from([None, "stop", "length", "content-filter", "tool-calls"]),
    foreign,
)
answer_parts = tool_parts() | our_files | st.builds(TextPart, texts, foreign)
unsent = st.builds(ErrorPart, st.just("Secret"), st.just("never-sent")) | st.builds(
    DataPart, st.just("note"), st.just("never-sent")
)
assistant_messages = st.lists(
    st.one_of(
        st.builds(TextPart, texts, foreign),
        st.builds(ReasoningPart, texts, ids, foreign),
        our_files,
        links,
        tool_parts(),
        steps,
        unsent,
    ),
    max_size=8,
).map(lambda parts: Message(role="assistant", parts=parts))
user_messages = st.lists(
    st.one_of(st.builds(TextPart, texts, foreign), our_files, links, unsent), min_size=1, max_size=3
).map(lambda parts: Message(role="user", parts=parts))
conversations = st.lists(
    st.one_of(assistant_messages, user_messages, st.builds(Message.system, texts)), max_size=6
)

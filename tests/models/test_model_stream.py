"""Events of a stream: however a provider cuts its answer up, ours add up to the whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai import messages as pai

from threadmark import ReasoningPart, TextPart, ToolPart
from threadmark.models import (
    ModelEvent,
    ModelResponse,
    PartDelta,
    PartEnded,
    PartStarted,
    ResponseEnded,
    ResponsePart,
)
from threadmark.models._args import parse_args
from threadmark.models._response import to_response
from threadmark.models._stream import StreamTranslator

from . import strategies as made


def check(events: list[ModelEvent]) -> ModelResponse:
    """Hold `events` against the promises of `Model.stream`; returns the response."""
    *body, last = events
    assert isinstance(last, ResponseEnded)
    started: dict[int, ResponsePart] = {}
    text: dict[int, str] = {}
    ended: dict[int, ResponsePart] = {}
    for event in body:
        if isinstance(event, PartStarted):
            assert event.index == len(started)
            started[event.index], text[event.index] = event.part, getattr(event.part, "text", "")
        elif isinstance(event, PartDelta):
            assert event.index not in ended
            assert event.delta
            text[event.index] += event.delta
        elif isinstance(event, PartEnded):
            assert event.index not in ended
            assert type(event.part) is type(started[event.index])
            ended[event.index] = event.part
    assert set(started) == set(ended) == set(range(len(last.response.parts)))
    for index, part in enumerate(last.response.parts):
        if isinstance(part, (TextPart, ReasoningPart)):
            assert text[index] == part.text == getattr(ended[index], "text", None)
        elif isinstance(part, ToolPart) and part.args:
            assert parse_args(text[index]) == part.args
    return last.response


def translate(events: list[Any], whole: pai.ModelResponse) -> list[ModelEvent]:
    translator = StreamTranslator()
    out: list[ModelEvent] = []
    for event in events:
        out += translator.feed(event)
    return out + list(translator.finish(whole))


def cut(draw: st.DrawFn, text: str) -> list[str]:
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Any], pai.ModelResponse]:
    """An answer and its events as Pydantic AI gives them: a part's end comes with the next part's start.

    Now and then a part goes on after its end, metadata comes late, or arguments come as a dict.
    """
    parts = draw(made.response_parts())
    events: list[Any] = []
    late: list[Any] = []
    for place, part in enumerate(parts):
        delta: Any
        if isinstance(part, (pai.TextPart, pai.ThinkingPart)):
            first, *rest = cut(draw, part.content)
            kind = pai.TextPartDelta if isinstance(part, pai.TextPart) else pai.ThinkingPartDelta
            events.append(pai.PartStartEvent(index=place, part=type(part)(first)))
            deltas = [pai.PartDeltaEvent(index=place, delta=kind(content_delta=piece)) for piece in rest]
            kept = draw(st.integers(0, len(deltas))) if draw(st.booleans()) else len(deltas)
            events += deltas[:kept]
            late += deltas[kept:]
            shown = first + "".join(rest[:kept])
            events.append(pai.PartEndEvent(index=place, part=type(part)(shown)))
        elif isinstance(part, (pai.ToolCallPart, pai.NativeToolCallPart)):
            if isinstance(part.args, str):
                first, *rest = cut(draw, part.args)
                events.append(pai.PartStartEvent(index=place, part=replace(part, args=first)))
                tardy = False
                for piece in rest:
                    delta = pai.ToolCallPartDelta(args_delta=piece, tool_call_id=part.tool_call_id)
                    # Arguments of parallel calls may interleave; a provider's own calls do not.
                    tardy = tardy or (isinstance(part, pai.ToolCallPart) and draw(st.booleans()))
                    (late if tardy else events).append(pai.PartDeltaEvent(index=place, delta=delta))
            else:
                events.append(pai.PartStartEvent(index=place, part=part))
            events.append(pai.PartEndEvent(index=place, part=part))
        else:
            events.append(pai.PartStartEvent(index=place, part=part))
    return events + late, pai.ModelResponse(parts=parts)


@made.unhurried
@given(streams())
def test_deltas_add_up_to_the_parts_of_the_response(stream: tuple[list[Any], pai.ModelResponse]) -> None:
    """Any cut, any order of parallel parts: each part starts once, ends once, and is what its deltas say."""
    events, whole = stream
    response = check(translate(events, whole))
    # Apart from text that came late, the streamed answer is the one that came in one piece.
    expected = to_response(whole)
    assert response.usage == expected.usage
    for kind in (TextPart, ReasoningPart):
        texts = ["".join(p.text for p in r.parts if isinstance(p, kind)) for r in (response, expected)]
        assert sorted(texts[0]) == sorted(texts[1])
    if len(response.parts) == len(expected.parts):
        assert response == expected


def test_text_that_goes_on_after_a_tool_call_becomes_a_part_of_its_own() -> None:
    """Servers that interleave text and calls cannot make an ended part grow."""
    call = pai.ToolCallPart("f", "{}", "c1")
    events = [
        pai.PartStartEvent(index=0, part=pai.TextPart("One ")),
        pai.PartEndEvent(index=0, part=pai.TextPart("One ")),
        pai.PartStartEvent(index=1, part=call),
        pai.PartDeltaEvent(index=0, delta=pai.TextPartDelta("two")),
        pai.PartEndEvent(index=1, part=call),
    ]
    whole = pai.ModelResponse(parts=[pai.TextPart("One two"), call])
    response = check(translate(events, whole))
    assert [getattr(part, "text", None) for part in response.parts] == ["One ", None, "two"]


def test_text_ends_when_the_next_part_starts() -> None:
    """A reader of the stream learns at once that the text is complete."""
    events = [
        pai.PartStartEvent(index=0, part=pai.TextPart("Hi")),
        pai.PartEndEvent(index=0, part=pai.TextPart("Hi")),
        pai.PartStartEvent(index=1, part=pai.ToolCallPart("f", None, "c1")),
        pai.PartDeltaEvent(index=1, delta=pai.ToolCallPartDelta(args_delta='{"a":1}', tool_call_id="c1")),
    ]
    whole = pai.ModelResponse(parts=[pai.TextPart("Hi"), pai.ToolCallPart("f", '{"a":1}', "c1")])
    out = translate(events, whole)
    assert [(type(event).__name__, getattr(event, "index", None)) for event in out] == [
        ("PartStarted", 0),
        ("PartDelta", 0),
        ("PartEnded", 0),
        ("PartStarted", 1),
        ("PartDelta", 1),
        ("PartEnded", 1),
        ("ResponseEnded", None),
    ]


def test_a_signature_that_comes_late_is_in_the_response() -> None:
    """Reasoning ends with its text; its signature, sent at the end of the answer, is not lost."""
    late = pai.ThinkingPartDelta(signature_delta="sig", provider_name="openai")
    events = [
        pai.PartStartEvent(index=0, part=pai.ThinkingPart("hm")),
        pai.PartEndEvent(index=0, part=pai.ThinkingPart("hm")),
        pai.PartStartEvent(index=1, part=pai.TextPart("Hi")),
        pai.PartDeltaEvent(index=0, delta=late),
    ]
    signed = pai.ThinkingPart("hm", signature="sig", provider_name="openai")
    response = check(translate(events, pai.ModelResponse(parts=[signed, pai.TextPart("Hi")])))
    assert response.parts[0] == ReasoningPart("hm", "sig", {"provider_name": "openai"})


def test_a_tool_that_the_provider_ran_ends_with_its_result() -> None:
    """Call and result are two parts there and one here, complete as soon as the result is in."""
    call = pai.NativeToolCallPart("web_search", {"q": "x"}, "n1", provider_name="anthropic")
    result = pai.NativeToolReturnPart("web_search", [1], "n1", provider_name="anthropic")
    events = [
        pai.PartStartEvent(index=0, part=call),
        pai.PartEndEvent(index=0, part=call),
        pai.PartStartEvent(index=1, part=result),
        pai.PartStartEvent(index=2, part=pai.TextPart("Found.")),
    ]
    out = translate(events, pai.ModelResponse(parts=[call, result, pai.TextPart("Found.")]))
    assert isinstance(out[2], PartEnded)
    assert isinstance(out[2].part, ToolPart)
    assert (out[2].part.state, out[2].part.output) == ("result", [1])
    assert len(check(out).parts) == 2


def test_a_part_that_the_provider_replaces_starts_once() -> None:
    """Previews of a picture are one part, and the last of them is kept."""

    def picture(data: bytes) -> pai.FilePart:
        return pai.FilePart(pai.BinaryImage(data, media_type="image/png"))

    events = [pai.PartStartEvent(index=0, part=picture(data)) for data in (b"1", b"12", b"123")]
    response = check(translate(events, pai.ModelResponse(parts=[picture(b"123")])))
    assert [getattr(part, "data", None) for part in response.parts] == [b"123"]


def test_parts_that_no_event_announced_are_announced_at_the_end() -> None:
    """A model that only says what the whole is still keeps the promises of a stream."""
    whole = pai.ModelResponse(parts=[pai.TextPart("Hello"), pai.ToolCallPart("f", {"a": 1}, "c1")])
    assert check(translate([], whole)) == to_response(whole)

"""Messages cross to Pydantic AI and back without loss."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai import messages as pai
from pydantic_ai.usage import RequestUsage

from threadmark import (
    DataPart,
    ErrorPart,
    FilePart,
    Message,
    ModelError,
    ReasoningPart,
    StepPart,
    TextPart,
    ToolPart,
)
from threadmark._codec import parts_from_json, parts_to_json
from threadmark._types import Part
from threadmark.models._args import parse_args
from threadmark.models._convert import (
    _INTERRUPTED_OUTCOME,
    INTERRUPTED,
    from_model_messages,
    to_model_messages,
)
from threadmark.models._response import dump_messages, from_step, to_response

from . import strategies as made


def stored_form(response: pai.ModelResponse) -> dict[str, Any]:
    """Pydantic AI's own stored form. Arguments that are a JSON object count as equal to their text."""
    dumped = dump_messages(pai.ModelMessagesTypeAdapter.validate_python(dump_messages([response])))[0]
    for part in dumped["parts"]:
        if "args" in part:
            part["args"] = parse_args(part["args"])
    return dumped


def through_storage(response: pai.ModelResponse) -> pai.ModelResponse:
    """As our message, as the JSON that a store keeps, and back."""
    ours = to_response(response)
    parts: tuple[Part, ...] = (ours.step_part(), *ours.parts)
    stored = parts_to_json(parts)
    assert parts_from_json(stored) == parts
    step, *rest = parts_from_json(stored)
    assert isinstance(step, StepPart)
    return from_step(step, rest)


def kinds(parts: Any) -> set[str]:
    """The part kinds of a union of part classes."""
    found: set[str] = set()
    for member in get_args(get_args(parts)[0]):
        found.add(get_args(member)[0].__dataclass_fields__["part_kind"].default)
    return found


# -- answers -----------------------------------------------------------------------------------------


@made.unhurried
@given(made.responses)
def test_a_response_survives_our_message_and_its_stored_json(response: pai.ModelResponse) -> None:
    """Response to our parts, to stored JSON, to parts, to response: all that a provider can need is equal."""
    assert stored_form(through_storage(response)) == stored_form(response)


def test_every_kind_of_response_part_is_tried() -> None:
    """A kind that a later Pydantic AI adds fails here, and is not lost in silence."""
    tried = {*made.response_part_strategies(), "builtin-tool-call", "builtin-tool-return"}
    assert kinds(pai.ModelResponsePart) == tried


def test_a_kind_that_we_do_not_know_is_an_error() -> None:
    """Never dropped in silence."""
    part = pai.TextPart("x")
    part.part_kind = "hologram"  # type: ignore[assignment]
    with pytest.raises(ModelError, match="'hologram'"):
        to_response(pai.ModelResponse(parts=[part]))


def test_the_fields_of_a_response_are_where_people_look_for_them() -> None:
    """Text, reasoning, calls, usage and reasons map to our own fields; only the rest goes to `provider`."""
    response = to_response(
        pai.ModelResponse(
            parts=[
                pai.ThinkingPart("hm", signature="sig", provider_name="anthropic"),
                pai.TextPart("Hello"),
                pai.ToolCallPart("weather", '{"city": "Rome"}', "c1"),
                pai.NativeToolCallPart("web_search", {"q": "x"}, "n1", provider_name="anthropic"),
                pai.NativeToolReturnPart("web_search", {"hits": 2}, "n1", provider_name="anthropic"),
            ],
            usage=RequestUsage(
                input_tokens=10, output_tokens=4, cache_read_tokens=3, cache_write_tokens=2, details={"x": 1}
            ),
            model_name="claude-x",
            finish_reason="tool_call",
            provider_response_id="r1",
            timestamp=datetime(2026, 1, 1, tzinfo=UTC),
        )
    )
    reasoning, text, call, search = response.parts
    assert reasoning == ReasoningPart("hm", "sig", {"provider_name": "anthropic"})
    assert text == TextPart("Hello")
    assert call == ToolPart(tool_call_id="c1", tool_name="weather", args={"city": "Rome"})
    assert isinstance(search, ToolPart)
    assert (search.state, search.output, search.provider_executed) == ("result", {"hits": 2}, True)
    assert response.usage.to_dict() == {
        "input_tokens": 10,
        "output_tokens": 4,
        "cache_read_tokens": 3,
        "cache_write_tokens": 2,
        "requests": 1,
    }
    assert (response.model, response.finish_reason) == ("claude-x", "tool-calls")
    assert response.provider == {
        "provider_response_id": "r1",
        "timestamp": "2026-01-01T00:00:00Z",
        "usage": {"details": {"x": 1}},
    }


@pytest.mark.parametrize("args", ["{", "[1]", '"x"', '{"a": NaN}', '{"a": 1e999}', "null", "[" * 5000])
def test_arguments_that_are_no_json_object_stay_as_the_model_wrote_them(args: str) -> None:
    """They are kept, stored and sent back to the letter."""
    response = pai.ModelResponse(parts=[pai.ToolCallPart("f", args, "c1")])
    (part,) = to_response(response).parts
    assert isinstance(part, ToolPart)
    assert part.args == args
    (call,) = through_storage(response).parts
    assert isinstance(call, pai.ToolCallPart)
    assert call.args == args


def test_metadata_that_is_no_json_is_kept_as_json() -> None:
    """Times, bytes and not-a-number inside provider details cannot make an answer impossible to store."""
    details = {"at": datetime(2026, 1, 1, tzinfo=UTC), "raw": b"\xff", "logprob": float("nan")}
    response = pai.ModelResponse(parts=[pai.TextPart("x", provider_name="p", provider_details=details)])
    (part,) = through_storage(response).parts
    assert isinstance(part, pai.TextPart)
    assert part.provider_details == {"at": "2026-01-01T00:00:00Z", "raw": "_w==", "logprob": None}


@made.unhurried
@given(
    made.steps,
    st.lists(made.tool_parts() | made.our_files | st.builds(TextPart, made.texts, made.foreign), max_size=4),
)
def test_our_parts_survive_a_response(step: StepPart, parts: list[Part]) -> None:
    """What we store, sent as an answer and read again, is what we stored; a second crossing adds nothing."""
    # The outcome of a tool of ours is not part of an answer, nor is a provider's call that did not finish.
    parts = [
        part
        for part in parts
        if not isinstance(part, ToolPart)
        or (part.state in ("call", "result") if part.provider_executed else part.state == "call")
    ]
    once = to_response(from_step(step, parts))
    assert len(once.parts) == len(parts)
    for before, after in zip(parts, once.parts, strict=True):
        assert type(before) is type(after)
        for field in (
            "text",
            "tool_call_id",
            "tool_name",
            "args",
            "state",
            "output",
            "data",
            "media_type",
            "name",
        ):
            assert getattr(before, field, None) == getattr(after, field, None)
    assert (once.model, once.finish_reason) == (step.model, step.finish_reason)
    assert once.usage.input_tokens == (step.usage or {})["input_tokens"]
    again = to_response(from_step(once.step_part(), once.parts))
    assert again == once


@made.unhurried
@given(made.attached, made.texts, st.none() | made.names)
def test_provider_metadata_of_our_parts_survives_a_response(
    provider: Any, text: str, signature: str | None
) -> None:
    """Ids, signatures and details that a provider wants back come back."""
    parts = (TextPart(text, provider), ReasoningPart(text, signature, provider))
    assert to_response(from_step(None, parts)).parts == parts


def test_metadata_that_cannot_be_read_does_not_lock_a_thread() -> None:
    """A part whose metadata has another shape than Pydantic AI's is sent without it."""
    response = from_step(StepPart(provider={"timestamp": "not a time"}), [TextPart("Hi", {"id": {"a": 1}})])
    assert [type(part) for part in response.parts] == [pai.TextPart]
    assert response.text == "Hi"


# -- conversations -----------------------------------------------------------------------------------


@made.unhurried
@given(made.conversations, made.texts)
def test_every_conversation_makes_a_prompt_that_providers_accept(
    messages: list[Message], instructions: str
) -> None:
    """Each call is answered right after its response, nothing is empty, nothing private is in it."""
    prompt = to_model_messages(messages, instructions=instructions)
    for index, message in enumerate(prompt):
        if isinstance(message, pai.ModelResponse):
            assert message.parts
            calls = [part.tool_call_id for part in message.parts if isinstance(part, pai.ToolCallPart)]
            answer = prompt[index + 1] if index + 1 < len(prompt) else None
            answers = [
                part.tool_call_id
                for part in (answer.parts if isinstance(answer, pai.ModelRequest) else [])
                if isinstance(part, pai.ToolReturnPart)
            ]
            assert calls == answers
        else:
            assert message.parts or message.instructions
    dumped = json.dumps(dump_messages(prompt))
    assert "never-sent" not in dumped
    requests = [message for message in prompt if isinstance(message, pai.ModelRequest)]
    assert [request.instructions for request in requests if request.instructions] == [instructions] * bool(
        instructions
    )
    if instructions and isinstance(prompt[-1], pai.ModelRequest):
        assert prompt[-1].instructions == instructions


@made.unhurried
@given(made.conversations)
def test_a_conversation_survives_the_way_to_a_model_and_back(messages: list[Message]) -> None:
    """Texts, files, calls and outcomes come back in order, and then come back again the same."""

    def content(conversation: list[Message]) -> list[Any]:
        return [
            (message.role, getattr(part, "type", None), *facts(part))
            for message in conversation
            for part in message.parts
            if facts(part)
        ]

    def facts(part: Part) -> tuple[Any, ...]:
        if isinstance(part, (TextPart, ReasoningPart)):
            return (part.text,) if part.text else ()
        if isinstance(part, FilePart):
            return (part.media_type, part.data, part.url, part.name)
        if isinstance(part, ToolPart):
            if part.provider_executed and part.state not in ("call", "result"):
                return ()
            state = "interrupted" if part.state == "call" and not part.provider_executed else part.state
            return (part.tool_call_id, part.tool_name, part.args, state, part.output)
        return ()

    # An address in an answer is told as text: no provider takes it back as a file.
    messages = [
        message.replace(parts=[p for p in message.parts if not (isinstance(p, FilePart) and p.url)])
        if message.role == "assistant"
        else message
        for message in messages
    ]
    back = from_model_messages(to_model_messages(messages, instructions="x"))
    assert content(back) == content(messages)
    again = from_model_messages(to_model_messages(back))
    assert [message.parts for message in again] == [message.parts for message in back]


def test_one_turn_becomes_a_response_and_outcomes_per_step() -> None:
    """Steps split an assistant message; parts before the first step are a step of their own."""
    turn = Message(
        role="assistant",
        parts=[
            TextPart("Let me see."),
            StepPart(model="m"),
            ToolPart(tool_call_id="a", tool_name="f", args={"x": 1}, state="result", output={"y": 2}),
            ToolPart(tool_call_id="b", tool_name="f", args="{", state="error", error="bad arguments"),
            ToolPart(tool_call_id="c", tool_name="f", state="denied", error="not today"),
            ToolPart(tool_call_id="d", tool_name="f", state="interrupted"),
            ToolPart(tool_call_id="e", tool_name="f"),
            ErrorPart("E", "x"),
            StepPart(model="m"),
            DataPart("d"),
            TextPart("Done."),
        ],
    )
    first, second, outcomes, third = to_model_messages([turn])
    assert [type(part) for part in first.parts] == [pai.TextPart]
    assert [type(part) for part in second.parts] == [pai.ToolCallPart] * 5
    assert [
        (part.content, part.outcome) for part in outcomes.parts if isinstance(part, pai.ToolReturnPart)
    ] == [
        ({"y": 2}, "success"),
        ("bad arguments", "failed"),
        ("not today", "denied"),
        (INTERRUPTED, _INTERRUPTED_OUTCOME),
        (INTERRUPTED, _INTERRUPTED_OUTCOME),
    ]
    assert isinstance(third, pai.ModelResponse)
    assert third.text == "Done."


def test_what_has_nothing_to_send_is_left_out() -> None:
    """No empty message reaches a provider, but an empty text that carries a signature does."""
    messages = [
        Message(role="user", parts=[DataPart("d"), TextPart("")]),
        Message(role="assistant", parts=[StepPart(), ErrorPart("E", "x")]),
        Message(role="assistant", parts=[StepPart(), TextPart("")]),
        Message.system(""),
    ]
    assert to_model_messages(messages) == []
    signed = TextPart("", {"provider_name": "google", "provider_details": {"thought_signature": "s"}})
    (response,) = to_model_messages([Message(role="assistant", parts=[signed])])
    assert isinstance(response, pai.ModelResponse)


def test_files_of_users_go_as_what_they_are() -> None:
    """Bytes stay bytes, addresses are typed by their media type, data URLs are unpacked."""
    parts: list[Part] = [
        TextPart("See:"),
        FilePart(media_type="image/png", data=b"png", name="a.png"),
        FilePart(media_type="image/png", url="https://x.example/a"),
        FilePart(media_type="audio/wav", url="https://x.example/b"),
        FilePart(media_type="video/mp4", url="https://x.example/c"),
        FilePart(media_type="application/pdf", url="https://x.example/d"),
        FilePart(media_type="text/plain", url="data:text/plain;base64,aGk="),
        FilePart(media_type="text/plain", url="data:text/plain,a%20b"),
    ]
    (request,) = to_model_messages([Message(role="user", parts=parts)])
    (prompt,) = request.parts
    assert isinstance(prompt, pai.UserPromptPart)
    assert isinstance(prompt.content, list)
    text, data, image, audio, video, document, packed, plain = prompt.content
    assert text == "See:"
    assert isinstance(data, pai.BinaryContent)
    assert (data.data, data.media_type, data.identifier) == (b"png", "image/png", "a.png")
    assert isinstance(image, pai.ImageUrl)
    assert isinstance(audio, pai.AudioUrl)
    assert isinstance(video, pai.VideoUrl)
    assert isinstance(document, pai.DocumentUrl)
    assert document.media_type == "application/pdf"
    assert isinstance(packed, pai.BinaryContent)
    assert packed.data == b"hi"
    assert isinstance(plain, pai.BinaryContent)
    assert plain.data == b"a b"


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (ToolPart(tool_call_id="a", tool_name="f"), "tool part"),
        (ReasoningPart("x"), "reasoning part"),
        (FilePart(media_type="text/plain", url="data:text/plain;base64,%%%"), "damaged"),
    ],
)
def test_what_a_user_message_cannot_hold_is_an_error(part: Part, words: str) -> None:
    """It says which part, rather than sending less than was stored."""
    with pytest.raises(ModelError, match=words):
        to_model_messages([Message(role="user", parts=[part])])


def test_speech_is_sent_as_its_transcript() -> None:
    """A part of a live session does not break an ordinary request."""
    said = TextPart("Hello", {"part_kind": "speech", "speaker": "assistant"})
    unheard = TextPart("", {"part_kind": "speech", "speaker": "assistant", "transcript": None})
    (response,) = to_model_messages([Message(role="assistant", parts=[said, unheard])])
    assert response.parts == [pai.TextPart("Hello")]


def test_a_history_of_pydantic_ai_becomes_whole_turns() -> None:
    """Responses and outcomes of one turn fold into one message; all kinds of user content survive."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    user: list[pai.UserContent] = [
        "look",
        pai.ImageUrl("https://x.example/a.png"),
        pai.BinaryContent(b"x", media_type="image/png"),
        pai.UploadedFile("file-1", "openai"),
        pai.CachePoint(),
        pai.TextContent("typed", metadata={"k": 1}),
    ]
    history: list[pai.ModelMessage] = [
        pai.ModelRequest(
            [pai.SystemPromptPart("Be kind.", timestamp=moment), pai.UserPromptPart(user, timestamp=moment)],
            instructions="not kept",
        ),
        pai.ModelResponse([pai.ToolCallPart("f", {"a": 1}, "c1"), pai.ToolCallPart("g", {}, "c2")]),
        pai.ModelRequest(
            [
                pai.ToolReturnPart("f", [pai.BinaryContent(b"y", media_type="image/png"), "and text"], "c1"),
                pai.ToolReturnPart("g", "no", "c2", outcome="failed"),
            ]
        ),
        pai.ModelResponse([pai.TextPart("Done.")]),
        pai.ModelRequest([pai.UserPromptPart("Thanks", timestamp=moment)]),
    ]
    system, question, turn, thanks = from_model_messages(history)
    assert (system.role, system.text) == ("system", "Be kind.")
    assert (question.role, question.created_at) == ("user", moment)
    assert [type(part) for part in turn.parts] == [StepPart, ToolPart, ToolPart, StepPart, TextPart]
    assert [part.state for part in turn.parts if isinstance(part, ToolPart)] == ["result", "error"]
    assert thanks.text == "Thanks"

    stored = [
        m.replace(parts=parts_from_json(parts_to_json(m.parts))) for m in (system, question, turn, thanks)
    ]
    _, asked, called, outcomes, done, _ = to_model_messages(stored)
    (prompt,) = asked.parts
    assert isinstance(prompt, pai.UserPromptPart)
    assert dump_messages([pai.ModelRequest([pai.UserPromptPart(prompt.content, timestamp=moment)])]) == (
        dump_messages([pai.ModelRequest([pai.UserPromptPart(user, timestamp=moment)])])
    )
    assert [part.tool_call_id for part in called.parts if isinstance(part, pai.ToolCallPart)] == ["c1", "c2"]
    file_result, failure = outcomes.parts
    assert isinstance(file_result, pai.ToolReturnPart)
    assert isinstance(failure, pai.ToolReturnPart)
    assert isinstance(file_result.content, list)
    assert isinstance(file_result.content[0], pai.BinaryContent)
    assert (failure.content, failure.outcome) == ("no", "failed")
    assert isinstance(done, pai.ModelResponse)


def test_an_outcome_without_its_call_is_an_error() -> None:
    """A history that was cut in the middle of a turn is not repaired by guessing."""
    with pytest.raises(ModelError, match="'c9' has no call"):
        from_model_messages([pai.ModelRequest([pai.ToolReturnPart("f", 1, "c9")])])


def test_plain_data_that_looks_like_a_file_stays_data() -> None:
    """A tool that returns a JSON object with a file's keys did not return a file."""
    output = {"kind": "image-url", "url": "https://x.example/a.png"}
    call = ToolPart(tool_call_id="a", tool_name="f", state="result", output=output)
    _, outcomes = to_model_messages([Message(role="assistant", parts=[call])])
    (part,) = outcomes.parts
    assert isinstance(part, pai.ToolReturnPart)
    assert part.content == output
    assert type(part.content) is dict

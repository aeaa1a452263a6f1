"""What an observer shows its model."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from threadmark import DataPart, FilePart, Message, ModelError, Speaker, StepPart, TextPart, ToolPart
from threadmark._types import Part
from threadmark.memory.observe.extract import Extractor
from threadmark.memory.observe.settings import ObservationSettings
from threadmark.stores.base import Hints

from .build import asked, batch, length, observer, row

pytestmark = pytest.mark.anyio

ALLERGY = "- (high fact) Ana is allergic to peanuts. [m1]\nNOTHING m2"


async def test_each_message_is_shown_once_in_order() -> None:
    """Numbered, with who said it and when, in the user's zone and with the weekday."""
    ana, bo = Speaker(id="u1", name="Ana"), Speaker(id="u2", name="Bo", role="lead")
    made, model = observer("NOTHING m1-m3")
    await made.observe(
        batch(
            Message.user("Hello there, all of you.", speaker=ana),
            Message.assistant("Hello."),
            Message.user("Good evening.", speaker=bo, created_at=datetime(2026, 3, 29, 23, 30, tzinfo=UTC)),
            timezone="Europe/Rome",
        )
    )
    assert asked(model) == (
        '<message n="m1" from="Ana" at="Sun 2026-03-01 13:00">\nHello there, all of you.\n</message>\n'
        '<message n="m2" from="assistant" at="Sun 2026-03-01 13:01">\nHello.\n</message>\n'
        '<message n="m3" from="Bo" role="lead" at="Mon 2026-03-30 01:30">\nGood evening.\n</message>\n\n'
        "Write the lines for these messages."
    )
    assert len(model.requests) == 1


async def test_calls_of_tools_are_shown_whole() -> None:
    """Arguments and outcome in one element with a number of its own; long outcomes by both ends."""
    parts: list[Part] = [
        StepPart(),
        ToolPart(tool_call_id="1", tool_name="find", args={"q": "x"}, state="result", output={"n": 1}),
        ToolPart(
            tool_call_id="2", tool_name="read", args={}, state="result", output="word " * 30_000 + "END"
        ),
        ToolPart(tool_call_id="3", tool_name="write", args={}, state="error", error="disk full"),
        ToolPart(tool_call_id="4", tool_name="update_working_memory", args={"a": "secret"}, state="result"),
        TextPart("Found it."),
        DataPart("threadmark.context", {"text": "injected"}),
    ]
    made, model = observer("- (medium outcome) Found it. [m1, m1.1]")
    result = await made.observe(batch(Message(role="assistant", parts=parts)))
    text = asked(model)
    assert '<tool n="m1.1" name="find">\ncalled with {"q":"x"}\nresult: {"n":1}\n</tool>' in text
    assert "characters left out]" in text
    assert "END\n</tool>" in text
    assert "error: disk full" in text
    assert "secret" not in text
    assert "injected" not in text
    assert len(text) < 40_000
    assert [source.message_id for source in result.rows[0].sources] == [result.rows[0].sources[0].message_id]


async def test_known_lines_and_hints_are_shown() -> None:
    """With a notice of those left out; the log itself is not sent."""
    made, model = observer(ALLERGY)
    await made.observe(
        batch(
            "I am allergic to peanuts.",
            "Noted.",
            prior=(row(7, "Ana lives in Rome."),),
            prior_omitted=41,
            hints=Hints(current_task="Plan the trip", suggested_response="", seq=1),
        )
    )
    assert asked(model).startswith(
        "<known>\no7 (medium fact) Ana lives in Rome.\n(41 more known lines are not shown)\n</known>\n\n"
        "<current-task>\nPlan the trip\n</current-task>\n\n<message"
    )


async def test_a_message_of_any_size_is_observed() -> None:
    """One larger than a batch is shown in slices, to the last character, each within the limit."""
    text = " ".join(f"word{number}" for number in range(3_000))

    def reply(request: Any) -> str:
        return "- (medium fact) A list of words. [m1]"

    made, model = observer(observation=ObservationSettings(max_tokens_per_batch=1_000))
    model._reply = reply
    result = await made.observe(batch(text))
    shown = [request.messages[0].text for request in model.requests]
    assert len(shown) > 3
    assert all(len(item) < 6_000 for item in shown)
    for number in range(3_000):
        assert sum(f"word{number}" in item.split() for item in shown) == 1, number
    assert 'part="2 of ' in shown[1]
    assert [item.count for item in result.rows].count(1) == len(result.rows)


async def test_files_go_along_if_they_may() -> None:
    """By default images and PDF are sent, others are named; a model that refuses them is asked without."""
    message = Message(
        role="user",
        parts=[
            TextPart("Look at these two."),
            FilePart(media_type="image/png", data=b"x", name="cat.png"),
            FilePart(media_type="audio/wav", data=b"y", name="song.wav"),
        ],
    )
    line = "- (medium fact) A user showed cat.png. [m1]"
    made, model = observer(line)
    await made.observe(batch(message))
    assert [part.type for part in model.requests[0].messages[0].parts] == ["text", "file"]
    assert "[file 1: cat.png, image/png, attached]\n[a file: song.wav, audio/wav, not shown]" in asked(model)
    made, model = observer(ModelError("no images", status=400), line)
    assert len((await made.observe(batch(message))).rows) == 1
    assert [part.type for part in model.requests[1].messages[0].parts] == ["text"]
    for wanted, files in ((True, 2), (False, 0), ("audio/*", 1), ("auto", 0)):
        made, model = observer(
            line,
            observation=ObservationSettings(observe_attachments=wanted),  # type: ignore[arg-type]
        )
        await made.observe(batch(message))
        assert len(model.requests[0].messages[0].parts) == 1 + files, wanted


async def test_secrets_are_redacted() -> None:
    """Before the model sees them, and again in what it wrote."""
    made, model = observer(
        "- (high fact) The key is hunter2, says Ana. [m1]",
        redact=lambda text: text.replace("hunter2", "[key]"),
    )
    result = await made.observe(batch("My key is hunter2, keep it."))
    assert "hunter2" not in asked(model)
    assert result.rows[0].text == "The key is [key], says Ana."
    extract = (Extractor(name="Key", instructions="The key."),)
    made, _ = observer(
        "NOTHING m1\nTASK: hide hunter2\nTITLE: On hunter2\nVALUE key: hunter2",
        redact=lambda text: text.replace("hunter2", "[key]"),
        observation=ObservationSettings(thread_title=True, extract=extract),
    )
    assert "hunter2" not in repr(await made.observe(batch("Well.")))


LONG = " ".join(f"word{number}" for number in range(600))
NOTED = "- (medium fact) A list of words. [m1]"


def of_slices(last: Any) -> Any:
    """An observer of slices: `last` answers for the one that a second message follows, NOTED for others."""
    made, model = observer(observation=ObservationSettings(max_tokens_per_batch=1_000))
    model._reply = lambda request: last if "Hello there" in request.messages[0].text else NOTED
    return made, model


async def test_each_slice_is_accounted_for() -> None:
    """One that is passed over is asked about again, by its own text, though other slices were noted."""
    made, model = of_slices("- (low fact) Ana said hello. [m2]")
    result = await made.observe(batch(LONG, "Hello there."))
    last, again = asked(model, -2), asked(model)
    assert "word599" in last
    assert "word0 " not in last
    assert "left these messages out" in again
    assert "word599" in again
    assert "Hello there." not in again
    assert {source.message_id for item in result.rows for source in item.sources} == {"a1", "a2"}


async def test_a_slice_that_was_cut_off_leaves_its_message_unobserved() -> None:
    """What was noted of its other slices goes too: it stays raw, and is observed again as a whole."""
    made, _ = of_slices(length("- (low fact) Ana said hello. [m2]\n- (high fact) And mo"))
    result = await made.observe(batch(LONG, "Hello there."))
    assert result.truncated
    assert {source.message_id for item in result.rows for source in item.sources} == {"a2"}
    assert result.nothing == ()
    assert any("observed again" in note for note in result.notes)

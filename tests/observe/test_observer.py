"""What an observer takes from a model's answer."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from threadmark import ModelError, Usage
from threadmark.memory.observe._types import ObservingError
from threadmark.stores.base import Hints

from .build import asked, batch, length, observer, told

pytestmark = pytest.mark.anyio

ALLERGY = "- (high fact) Ana is allergic to peanuts. [m1]\nNOTHING m2"


async def test_an_answer_becomes_rows() -> None:
    """Priority, kind, sources, dates, subject; the hints stand apart; the rest is accounted for."""
    made, _ = observer(
        "<observations>\n"
        "- (high event) Ana flies to Oslo. [m1] {when: 2026-03-06} {subject: Oslo}\n"
        "- (low fact) The assistant wished her a good trip. [m2]\n"
        "</observations>\n"
        "TASK: Pack for Oslo\n"
        "NEXT: Ask about the weather\n"
    )
    result = await made.observe(batch("I fly to Oslo next Friday.", "Have a good trip!"))
    first, second = result.rows
    assert (first.kind, first.priority, first.origin, first.subject) == ("event", "high", "user", "Oslo")
    assert first.event_from == datetime(2026, 3, 6, tzinfo=UTC)
    assert (first.event_to, first.event_precision) == (None, "day")
    assert second.origin == "assistant"
    assert result.hints == Hints(current_task="Pack for Oslo", suggested_response="Ask about the weather")
    assert not result.truncated
    assert isinstance(result.usage, Usage)
    assert result.usage.requests == 1
    assert result.model == "scripted:model"


async def test_tags_on_the_line() -> None:
    """An element on the same line as its content is read, and so is a list in another style."""
    made, _ = observer(
        "<observations>* **High**: Ana has a dog. [m1]</observations>\n"
        "1. \U0001f7e2 (12:01) It barks, she said. (m1)"
    )
    result = await made.observe(batch("I have a dog. It barks."))
    assert [(item.priority, item.text) for item in result.rows] == [
        ("high", "Ana has a dog."),
        ("low", "It barks, she said."),
    ]


async def test_nothing_to_note() -> None:
    """Said explicitly it covers those messages; it is no failure."""
    made, model = observer("NOTHING m1-m2")
    result = await made.observe(batch("Hello!", "Hello, how can I help?"))
    assert (result.rows, result.nothing) == ((), ("a1", "a2"))
    assert len(model.requests) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "empty"),
        ("  \n\n ", "empty"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("- I cannot do this. [m1]", "refusal"),
        ("The user talked about peanuts, and the assistant noted it.", "unparsable"),
        ("<observations>", "unparsable"),
        ("<observations>\n</observa", "unparsable"),
        ("- (high fact) Ana is allergic. [m77]", "no-sources"),
        ("- (high fact) Ana is allergic.", "no-sources"),
        ("NOTHING m8-m9", "unparsable"),
        ('<thread id="other">\n- something of another thread\n</thread>', "no-sources"),
        ("- (high fact) same [m9]\n" * 200, "loop"),
    ],
)
async def test_useless_answers(answer: str, reason: str) -> None:
    """Asked once more, with other words; if that gives nothing either, nothing is noted."""
    made, model = observer(answer, answer)
    with pytest.raises(ObservingError) as caught:
        await made.observe(batch("I am allergic to peanuts.", "Noted."))
    assert caught.value.reason == reason
    assert caught.value.usage.requests == 2
    assert "peanuts" not in str(caught.value)
    assert asked(model, 0) != asked(model, 1)
    made, model = observer(answer, ALLERGY)
    result = await made.observe(batch("I am allergic to peanuts.", "Noted."))
    assert told(result) == [("high", "Ana is allergic to peanuts.", ("a1",))]
    assert result.nothing == ("a2",)


async def test_a_failing_model_is_not_asked_again_here() -> None:
    """429s and the like are the core's to wait for."""
    made, model = observer(ModelError("slow down", status=429))
    with pytest.raises(ModelError):
        await made.observe(batch("Hello there."))
    assert len(model.requests) == 1


async def test_an_answer_that_was_cut_off() -> None:
    """Complete lines are kept with their dates and cover what they cite; the rest comes again."""
    made, model = observer(
        length(
            "- (high event) Ana flies on Friday. [m1] {when: 2026-03-06}\n"
            "- (high fact) Ana lives in Rome. [m3]\n"
            "- (high fact) Ana's mother lives in Par"
        )
    )
    result = await made.observe(
        batch("I fly on Friday.", "Fine.", "I live in Rome.", "I see.", "Mum is in Paris.")
    )
    assert told(result) == [
        ("high", "Ana flies on Friday.", ("a1",)),
        ("high", "Ana lives in Rome.", ("a3",)),
    ]
    assert result.rows[0].event_from == datetime(2026, 3, 6, tzinfo=UTC)
    assert (result.nothing, result.truncated) == ((), True)
    assert len(model.requests) == 1


async def test_lines_of_unknown_messages() -> None:
    """Unknown sources go; a line left without any is kept apart, low and flagged, and covers nothing."""
    made, _ = observer("- (high fact) Ana has a cat. [m1, m5, m999999999999]\n- (high rule) Be brief. [m4]")
    result = await made.observe(batch("I have a cat."))
    first, second = result.rows
    assert [source.message_id for source in first.sources] == ["a1"]
    assert (second.sources, second.priority, second.kind) == ((), "low", "fact")
    assert second.flags == ("unsourced",)


async def test_passed_over_messages_are_asked_about() -> None:
    """Once, with these messages only; what is passed over again is kept word for word, so nothing is lost."""
    made, model = observer("- (high fact) Ana has a cat. [m1]\nTASK: cats", "NOTHING m4\nTASK: other")
    result = await made.observe(
        batch("I have a cat.", "Nice.", "Always answer me in French, please.", "D'accord.", "ok")
    )
    assert "I have a cat." not in asked(model, 1)
    assert "Always answer me in French" in asked(model, 1)
    assert told(result) == [
        ("high", "Ana has a cat.", ("a1",)),
        ("medium", "The user said: \u201cAlways answer me in French, please.\u201d", ("a3",)),
    ]
    source = result.rows[1].sources[0]
    assert (source.part, source.start, source.end) == (0, 0, 35)
    assert result.rows[1].flags == ("verbatim",)
    assert set(result.nothing) == {"a2", "a4", "a5"}
    assert result.hints is not None
    assert result.hints.current_task == "cats"
    assert len(model.requests) == 2


async def test_details_that_no_line_has_are_asked_for() -> None:
    """Numbers, addresses, identifiers and names of a user's message, when more than three are missing."""
    text = "My order A-1234-X of 17 pears goes to Lena Weber, lena@example.org."
    line = "- (high fact) Order A-1234-X of 17 pears goes to Lena Weber, lena@example.org. [m1]"
    made, model = observer("- (medium fact) The user made an order. [m1]", line)
    result = await made.observe(batch(text))
    assert "m1: A-1234-X, 17, lena@example.org, Lena Weber" in asked(model, 1)
    assert len(result.rows) == 2
    made, model = observer(line)
    await made.observe(batch(text))
    assert len(model.requests) == 1
    made, model = observer("- (medium fact) A user made an order of 17 pears to Lena Weber. [m1]")
    await made.observe(batch(text))
    assert len(model.requests) == 1


async def test_a_failing_second_question_spoils_nothing() -> None:
    """What the first answer gave is kept."""
    made, _ = observer("- (high fact) Ana has a cat. [m1]", ModelError("down", status=500))
    result = await made.observe(batch("I have a cat.", "Nice.", "And my dog is called Rex."))
    assert result.rows[0].text == "Ana has a cat."
    assert "Rex" in result.rows[1].text

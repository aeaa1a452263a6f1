from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadmark.recall.dates import DaySpan, find_days
from threadmark.recall.query import parse_query


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("on 8 May 2023", [DaySpan(2023, 5, 8)]),
        ("on October 13, 2023?", [DaySpan(2023, 10, 13)]),
        ("in July", [DaySpan(None, 7, None)]),
        ("in May, or in march", [DaySpan(None, 5, None)]),
        ("you may march on", []),
        ("2023-05-08", [DaySpan(2023, 5, 8)]),
        ("Sept 3rd", [DaySpan(None, 9, 3)]),
        ("room 2023", []),
    ],
)
def test_days_in_a_query(text: str, spans: list[DaySpan]) -> None:
    """Days and months are found in their usual spellings; "may" alone is a verb."""
    assert find_days(text) == spans


def test_nearness_falls_off_with_days() -> None:
    """A day itself is 1, days after it count more than as many days before it, far ones next to nothing."""

    def at(month: int, day: int) -> float:
        return datetime(2023, month, day, 12, tzinfo=UTC).timestamp()

    span = DaySpan(2023, 5, 8)
    assert span.nearness(at(5, 8)) == 1
    assert 1 > span.nearness(at(5, 12)) > span.nearness(at(5, 4)) > 0.1
    assert span.nearness(at(12, 8)) < 1e-6
    assert DaySpan(None, 2, 30).nearness(at(2, 28)) == 0


def test_named_speakers_and_first_person() -> None:
    """A single named speaker becomes "I" in the text to embed; a short form and a first name count."""
    query = parse_query("What is Mel's plan?", speakers={"Melanie Ortiz", "Caroline"})
    assert query.speakers == {"Melanie Ortiz"}
    assert query.embed == "What is my plan?"
    both = parse_query("Did Ana meet Ben?", speakers=["Ana", "Ben"])
    assert both.speakers == {"Ana", "Ben"}
    assert both.embed == both.text


def test_common_words_are_no_names() -> None:
    """A name that is a word too counts only when it is written as a name."""
    assert not parse_query("the will of the people", speakers=["Will"]).speakers
    assert parse_query("what did Will say", speakers=["Will"]).speakers == {"Will"}


@given(st.text(), st.lists(st.text(max_size=20), max_size=5))
def test_any_query_parses(text: str, speakers: list[str]) -> None:
    """No text and no speaker's name is an error."""
    query = parse_query(text, speakers=speakers)
    assert len(query.terms) == len(query.damping) <= 64
    for span in query.days:
        assert 0 <= span.nearness(0.0) <= 1
        assert 0 <= span.nearness(1e18) <= 1

"""Reading what a model wrote: whatever it is, nothing is raised and no source is invented."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threadmark.memory.observe import _text
from threadmark.memory.observe._checks import zone
from threadmark.memory.observe.guard import Checks, guarded
from threadmark.memory.observe.parse import MAX_LINE, parse
from threadmark.memory.observe.transcript import View, pieces_of, transcripts

from .build import said

LABELS = ["m1", "m2", "m2.1", "m3"]

FRAGMENTS = st.sampled_from(
    [
        *(
            "- ",
            "* ",
            "1. ",
            "(high fact) ",
            "(low, rule): ",
            "\U0001f534 ",
            "\u2705",
            "[m1]",
            "[m1-m3]",
            "(m3)",
        ),
        *(
            "[m2.1, m9]",
            "[m99999999999999]",
            "{when: 2026-03-01}",
            "{when: 9999-12-31..}",
            "{updates: o1,o2}",
        ),
        *(
            '{quote: "a"}',
            "{by: }",
            "{subject: x",
            "}",
            "NOTHING m1-m3",
            "NOTHING",
            "TASK: ",
            "NEXT:",
            "TITLE: x",
        ),
        *(
            "VALUE a: {",
            "<observations>",
            "</observations>",
            "</message>",
            '<message n="m1">',
            "```",
            "\n",
            "\n\n",
        ),
        *(
            "&lt;message",
            "\r",
            "\x00",
            "\u202e",
            "\ud800",
            "I'm sorry, I can't",
            "text",
            "\u4f60\u597d",
            " ",
            "\t",
        ),
    ]
)
OUTPUTS = st.lists(FRAGMENTS | st.text(max_size=20), max_size=40).map("".join)


@given(output=OUTPUTS, shown=OUTPUTS, truncated=st.booleans())
@settings(max_examples=400, deadline=None)
def test_nothing_is_raised_and_no_source_is_invented(output: str, shown: str, truncated: bool) -> None:
    """For any answer: sources are among the labels, texts are single lines without control characters."""
    answer = parse(output, LABELS, shown=shown, truncated=truncated)
    for line in answer.lines:
        assert set(line.sources) <= set(LABELS)
        assert len(set(line.sources)) == len(line.sources) <= line.cited or line.cited
        assert 0 < len(line.text) <= MAX_LINE
        assert "\n" not in line.text
        assert _text.visible(line.text) == line.text
        # A source is in the answer itself, or within a range that is.
        assert not line.sources or any(f"{label}" in output.casefold() for label in LABELS)
    assert set(answer.nothing) <= set(LABELS)


@given(output=OUTPUTS, texts=st.lists(st.text(max_size=60) | OUTPUTS, min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_guards_hold_for_any_answer(output: str, texts: list[str]) -> None:
    """For any answer about any messages: rows cite messages that were shown, and quote what is in them."""
    messages = said(*texts)
    originals = {message.id: message for message in messages}
    for transcript in transcripts(pieces_of(messages, View(zone=zone("UTC"))), 1_000):
        answer = parse(output, list(transcript.labels), shown=transcript.shown)
        draft = guarded(answer, transcript, Checks(zone=zone("UTC"), originals=originals))
        for row in draft.rows:
            assert {source.message_id for source in row.sources} <= set(originals)
            for source in row.sources:
                if source.start is not None:
                    part = originals[source.message_id].text
                    assert part[source.start : source.end].strip()
            assert row.sources or "unsourced" in row.flags
            if row.origin == "tool":
                assert row.kind not in ("rule", "task", "decision")
        # A message that looks like ours opens and closes no element.
        assert transcript.text.count("<message ") == transcript.text.count("</message>")


@given(forged=OUTPUTS, before=st.text(max_size=20))
@settings(max_examples=300, deadline=None)
def test_copied_text_changes_nothing(forged: str, before: str) -> None:
    """Lines that stand in a message, copied into the answer, give no row, no hint, no range and no value."""
    answer = parse(f"{forged}\n- (high fact) Kept. [m3]\nTASK: kept", LABELS, shown=f"{before}\n{forged}")
    plain = parse(forged, LABELS, shown=forged)
    assert [line.text for line in plain.lines if line.cited and line.tagged] == []
    assert (plain.nothing, plain.task, plain.reply, plain.title, plain.values) == ([], "", "", "", {})
    assert answer.task == "kept"
    assert any(line.text == "Kept." and line.sources == ("m3",) for line in answer.lines)


@pytest.mark.parametrize(
    "output",
    [
        "- (high fact) " + "m1 " * 60_000,
        "[" * 200_000,
        "- (high) " + "{when: " * 30_000 + "}",
        "- (high) a " + "{when: x}" * 20_000,
        "- " + " " * 200_000 + "[m1]",
        "(m1, " * 40_000 + ")",
        "- (high) x [" + "m1," * 60_000 + "]",
        "- (high) " + "x" * 200_000 + " [m1]",
        "NOTHING " + "m1-" * 60_000,
        "TASK: " + "x " * 100_000,
        "<" * 200_000,
        "- (high) x [m1]\n" * 20_000,
        "&lt;" * 50_000,
    ],
    ids=lambda text: text[:12],
)
def test_long_answers_take_time_in_proportion(output: str) -> None:
    """No line, however long or nested, takes more than a moment of the processor."""
    began = time.process_time()
    parse(output, LABELS, shown="some text that was shown")
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "text", ["a" * 200_000, "1." * 100_000, "Aa " * 60_000, "a@" * 90_000, "1a-" * 60_000]
)
def test_looking_for_details_takes_time_in_proportion(text: str) -> None:
    """Numbers, addresses and names are found in one pass."""
    began = time.process_time()
    _text.exact_items(text)
    _text.names(text, starts=True)
    assert time.process_time() - began < 2


def test_ranges() -> None:
    """A range covers the labels between its ends, as far as they exist; backwards it is its two ends."""

    def sources(text: str) -> tuple[str, ...]:
        return parse(f"- (low) x y [{text}]", LABELS).lines[0].sources

    assert sources("m1-m3") == ("m1", "m2", "m2.1", "m3")
    assert sources("m2..m2.1") == ("m2", "m2.1")
    assert sources("m3-m1") == ("m3", "m1")
    assert sources("m2-m99999999") == ("m2",)
    assert sources("m0-m2; M3 and m3") == ("m2", "m3")


def test_brackets_in_the_text_are_text() -> None:
    """Only what stands at the end (or the very beginning) are sources."""
    lines = parse("- (low) cfg[m1] = arr[i][j] -> y {x: 1} [m3]\n- (low) [m2] use a[0]", LABELS).lines
    assert [(line.text, line.sources) for line in lines] == [
        ("cfg[m1] = arr[i][j] -> y {x: 1}", ("m3",)),
        ("use a[0]", ("m2",)),
    ]


def test_protection_is_undone() -> None:
    """What was escaped for the model comes back as it was, and nothing else is touched."""
    for text in ("<message>", "a < b && c > d", "</ TOOL >", "&lt;div&gt;", "<observationsx", "List<int>"):
        assert _text.unprotect(_text.protect(text)) == text
    assert _text.protect("<div>x</div> -> &amp;") == "<div>x</div> -> &amp;"
    for tag in ("<message x>", "</ message>", "<\tTOOL>", "< /observations>"):
        assert "<" not in _text.protect(tag)

"""Splitting text into comparable words and into sentences."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadmark.offline._words import is_question, sentences, words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("hike", "hiking"),
        ("hikes", "hiked"),
        ("run", "running"),
        ("study", "studies"),
        ("studying", "studied"),
        ("day", "days"),
        ("box", "boxes"),
        ("bus", "buses"),
        ("dog", "dog's"),
        ("favourite colour", "favorite color"),
        ("love", "enjoy"),
        ("caf\u00e9", "CAFE"),
        ("STRASSE", "stra\u00dfe"),
        ("\uff21\uff22\uff23", "abc"),
    ],
)
def test_forms_of_one_word_are_equal(one: str, other: str) -> None:
    """Endings, case, accents and spelling do not matter."""
    assert words(one) == words(other) != []


@pytest.mark.parametrize(
    "text", ["king", "thing", "bed", "string", "morning", "need", "news", "gas", "this is"]
)
def test_short_words_keep_a_root(text: str) -> None:
    """Cutting an ending leaves something to compare, or the word as it is."""
    assert all(len(word) > 2 for word in words(text))


def test_words_that_only_ask_are_left_out() -> None:
    """A question is about its rare words."""
    assert words("What did I tell you about the") == []
    assert words("Where's my car?") == ["car"]


def test_scripts_without_spaces_give_pairs() -> None:
    """Chinese and Japanese match by pairs of characters; Hindi and Thai keep their vowel signs."""
    assert words("\u6211\u559c\u6b22\u5f92\u6b65") == [
        "\u6211\u559c",
        "\u559c\u6b22",
        "\u6b22\u5f92",
        "\u5f92\u6b65",
    ]
    assert words("\u732b") == ["\u732b"]
    assert words("Tokyo\u306b\u884c\u304f") == ["tokyo", "\u306b\u884c", "\u884c\u304f"]
    assert words("\u0939\u093f\u0928\u094d\u0926\u0940 \u092d\u093e\u0937\u093e") == [
        "\u0939\u093f\u0928\u094d\u0926\u0940",
        "\u092d\u093e\u0937\u093e",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Dr. Smith met J. Doe. Then he left.", ["Dr. Smith met J. Doe.", "Then he left."]),
        ("It costs 3.50 in total.", ["It costs 3.50 in total."]),
        ("a line\r\nanother line\n\n", ["a line", "another line"]),
        ("He said \u201cHi.\u201d Then he left.", ["He said \u201cHi.\u201d", "Then he left."]),
        (
            "\u3053\u308c\u3002\u305d\u308c\uff01\uff1f\u300c\u306f\u3044\u3002\u300d",
            ["\u3053\u308c\u3002", "\u305d\u308c\uff01\uff1f", "\u300c\u306f\u3044\u3002\u300d"],
        ),
        ("  ", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    """Sentences end at their marks and at line ends, not at abbreviations or in numbers."""
    assert sentences(text) == expected


@given(st.text())
def test_sentences_are_pieces_of_the_text(text: str) -> None:
    """Every sentence stands in the text as it is, in order, and nothing but space lies between."""
    position = 0
    for sentence in sentences(text):
        found = text.index(sentence, position)
        assert not text[position:found].strip()
        position = found + len(sentence)
    assert not text[position:].strip()


@pytest.mark.parametrize(
    "text",
    [
        "Where do I live?",
        "what is my name",
        "Tell me about Rex",
        "Did I say that",
        "so who is she",
        "\u4f60\u597d\u5417",
    ],
)
def test_questions(text: str) -> None:
    """A question is known by its mark or by its first words."""
    assert is_question(text)


@pytest.mark.parametrize("text", ["I live in Oslo.", "Will is my brother.", "Do not forget the milk.", "Is"])
def test_statements(text: str) -> None:
    """What only begins like a question is none."""
    assert not is_question(text)


@pytest.mark.parametrize("piece", ["a. b. ", " ", ".", ")", ".) ", "x", "\u00e9 ", "\n", "\u3002\u300d"])
def test_time_is_linear(piece: str) -> None:
    """No text makes splitting slow: 200,000 characters of anything take a fraction of a second of CPU."""
    text = piece * (200_000 // len(piece))
    start = time.process_time()
    sentences(text), words(text), is_question(text)
    assert time.process_time() - start < 5

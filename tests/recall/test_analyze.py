from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadmark.recall.analyze import analyze, analyze_query
from threadmark.recall.languages import MAX_TERM
from threadmark.recall.stem import stem

HOSTILE = [
    "",
    " ",
    "\x00",
    "\ud800",
    "\"'*:^(){}[]",
    "NEAR(a b) AND OR NOT",
    "a" * 100_000,
    "\u0301" * 1000,
    "-" * 9999,
]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Caroline adopted 2 cats", ["carolin", "adopt", "2", "cat"]),
        ("adoption ADOPTING adopts", ["adopt", "adopt", "adopt"]),
        ("Mel's café isn't", ["mel", "cafe", "isn"]),
        ("1,200 08 8th 3.50 2023-05-08", ["1200", "8", "8", "3.50", "2023", "5", "8"]),
        ("snake_case foo-bar", ["snake", "case", "foo", "bar"]),
        ("東京", ["東", "京", "東京"]),
        ("猫", ["猫"]),
        ("안녕하세요", ["안녕", "녕하", "하세", "세요"]),
        ("ПРИВЕТ Ёлка", ["привет", "елка"]),
        ("👩🏽 👩 🇩🇪", ["👩", "👩", "🇩🇪"]),
        ("Straße STRASSE", ["strass", "strass"]),
        ("١٢٣", ["123"]),
    ],
)
def test_terms(text: str, terms: list[str]) -> None:
    """Words lose case, accents and endings; numbers, unspaced scripts and emoji are terms."""
    assert analyze(text) == terms


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (("running", "runs", "run"), True),
        (("happily", "happy", "happiness"), False),
        (("news", "new"), False),
        (("organization", "organizations"), True),
        (("skies", "sky"), True),
        (("dying", "die", "dies"), True),
    ],
)
def test_stems(words: tuple[str, ...], same: bool) -> None:
    """Forms of a word share a stem, other words do not."""
    assert (len({stem(w) for w in words}) == 1) is same


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_only_text(text: str) -> None:
    """No string is an error, and no term holds an operator, a space or a NUL."""
    for term in [*analyze(text), *analyze_query(text)]:
        assert term
        assert len(term) <= MAX_TERM
        assert not set(term) & set("\"'*():^\x00 \n")


@given(st.text())
def test_any_text_has_terms_that_are_stable(text: str) -> None:
    """The same text gives the same terms, however it is composed; terms are short and without spaces."""
    terms = analyze(text)
    assert terms == analyze(text)
    assert terms == analyze(unicodedata.normalize("NFD", text)) or not text.isprintable()
    assert all(term and len(term) <= MAX_TERM and not any(c.isspace() for c in term) for term in terms)


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=30))
def test_any_word_has_a_stem(word: str) -> None:
    """A stem is not empty and at most one letter longer than what it replaces."""
    assert 0 < len(stem(word)) <= len(word) + 1


def test_long_queries_are_bounded() -> None:
    """A query of 10 kB of different words has no more terms than the limit."""
    assert len(analyze_query(" ".join(f"word{i}" for i in range(2000)))) == 64

"""Token counts: how near the estimate is, what it never does, and what a counter learns."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from threadmark import ValidationError
from threadmark._types import (
    DataPart,
    ErrorPart,
    FilePart,
    Message,
    ReasoningPart,
    StepPart,
    TextPart,
    ToolPart,
)
from threadmark.memory import tokens, tokens_exact, tokens_prices
from threadmark.memory.tokens import VERSION, estimate_tokens, message_tokens
from threadmark.memory.tokens_counter import TokenCounter
from threadmark.memory.tokens_families import FAMILIES, family_of, prices_of
from threadmark.memory.tokens_signature import CHUNK, PIECE, signature

PINNED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "benchmarks" / "tokens" / "pinned.json").read_text(encoding="utf-8")
)
CLOSE = {"english", "chat", "python", "typescript", "json"}

# Text with everything that has a class of its own, in runs, and lone surrogates.
_RUNS = st.builds(
    lambda char, times: char * times,
    st.sampled_from(
        "aAbz0 .,\n\r\t_(-=éÉяЖ我龘かカ한אبहกა😀👍🏽🇩\u200d\ufe0f\u0301—─†\x00\ud800\U00020000\ue000"
    ),
    st.integers(1, 30),
)
TEXT = st.one_of(
    st.text(),
    st.text(st.characters(categories=("Cs", "Mn", "So", "Lo", "Zs", "Cc"))),
    st.lists(_RUNS, max_size=12).map("".join),
    st.text("aA0 .\n"),
)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", sorted(PINNED))
def test_estimate_is_near_the_exact_count(name: str, family: str) -> None:
    """English, code and JSON are within 15 % of the exact count of their family, all else within 30 %."""
    pinned = PINNED[name]
    assert pinned["o200k"] >= 200, "too short to say anything"
    assert estimate_tokens(pinned["text"], family) == pytest.approx(
        pinned[family], rel=0.15 if name in CLOSE else 0.30
    )


@pytest.mark.parametrize(
    "name",
    [
        *sorted(CLOSE),
        *("japanese", "german", "french", "base64", "emoji", "hex", "numbers"),
        *("table", "url", "uuid", "whitespace"),
    ],
)
def test_default_estimate_suits_both_families(name: str) -> None:
    """Where o200k and cl100k are not too far apart, the default is within the band of both."""
    pinned = PINNED[name]
    band = 0.15 if name in CLOSE else 0.30
    assert estimate_tokens(pinned["text"]) == pytest.approx(pinned["cl100k"], rel=band)


@pytest.mark.parametrize(
    "name", ["hex", "base64", "uuid", "hindi", "arabic", "chinese", "japanese", "korean", "emoji"]
)
def test_opaque_text_and_far_scripts_are_not_underestimated(name: str) -> None:
    """Identifiers, encoded bytes and non-Latin scripts are estimated at 0.9 of the exact count or more."""
    assert estimate_tokens(PINNED[name]["text"]) >= 0.9 * PINNED[name]["o200k"]


def test_only_the_empty_text_is_nothing() -> None:
    """Every character is at least one token, the empty text none."""
    for family in FAMILIES:
        assert estimate_tokens("", family) == 0
        assert all(estimate_tokens(chr(code), family) >= 1 for code in range(0, 0x110000, 7))


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("openai:gpt-5.4-mini", "o200k"),
        ("openai:gpt-4o", "o200k"),
        ("openai:gpt-4.1-nano", "o200k"),
        ("openai:gpt-4.5", "o200k"),
        ("openai:gpt-4", "cl100k"),
        ("openai:gpt-4-turbo-2024-04-09", "cl100k"),
        ("azure:gpt-35-turbo-16k", "cl100k"),
        ("openai:gpt-3.5-turbo", "cl100k"),
        ("openai:gpt-oss-120b", "o200k"),
        ("openai:o3-mini", "o200k"),
        ("anthropic:claude-opus-4-5", "claude"),
        ("bedrock:us.anthropic.claude-sonnet-4-20250514-v1:0", "claude"),
        ("google-gla:gemini-3-pro", "gemini"),
        ("groq:llama-3.3-70b-versatile", "llama"),
        ("ollama:qwen3:8b", "qwen"),
        ("ollama:mistral", "o200k"),
        ("", "o200k"),
        ("Something Else", "o200k"),
    ],
)
def test_family_of_a_model(model: str, family: str) -> None:
    """The model's name says which tokenizer it has; unknown ones count as OpenAI's current models."""
    assert family_of(model) == family


def test_changed_prices_have_another_version() -> None:
    """Stored totals are of one version: whoever changes prices raises `VERSION`, and this."""
    prices = json.dumps([prices_of(family) for family in FAMILIES], sort_keys=True)
    assert (VERSION, zlib.crc32(prices.encode())) == (2, 3601514275)


def test_unknown_family_is_refused() -> None:
    """A family that is not there is an error that names those that are."""
    with pytest.raises(ValidationError, match="o200k, cl100k"):
        estimate_tokens("text", "p50k")


@settings(deadline=None, max_examples=300)
@given(TEXT)
@example("\ud800")
@example("a\x00b\x1c\x85\u2028c")
def test_signature_covers_every_character(text: str) -> None:
    """Classes stand for characters one to one, and chunks and pieces leave none out."""
    classes = signature(text)
    assert len(classes) == len(text)
    chunks = CHUNK.findall(classes)
    assert "".join(chunks) == classes
    assert all("".join(PIECE.findall(chunk)) == chunk for chunk in chunks)


@settings(deadline=None, max_examples=500)
@given(TEXT, TEXT, st.sampled_from(FAMILIES))
def test_estimates_nearly_add_up(first: str, second: str, family: str) -> None:
    """A text costs at most 16 tokens more or less than its two halves."""
    apart = estimate_tokens(first, family) + estimate_tokens(second, family)
    assert abs(estimate_tokens(first + second, family) - apart) <= 16


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("a", "A"),
        ("A", "a"),
        ("a", "é"),
        ("=", "."),
        (" ", "\t"),
        (" ", "\n"),
        ("0", "a"),
        (".", "\n"),
        ("我", "カ"),
    ],
)
def test_long_runs_nearly_add_up_too(left: str, right: str) -> None:
    """The allowance of 16 tokens does not grow with the length of what is joined."""
    for size in (100, 10_000):
        for family in FAMILIES:
            first, second = left * size, right * size
            apart = estimate_tokens(first, family) + estimate_tokens(second, family)
            assert abs(estimate_tokens(first + second, family) - apart) <= 16


def test_estimate_depends_on_nothing_but_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was counted before changes nothing, and neither do blocks or a full cache."""
    text = "".join(pinned["text"] for pinned in PINNED.values())
    before = estimate_tokens(text)
    for code in range(0x100, 0x3000):
        estimate_tokens(f"{chr(code)}{'a' * (code % 50)} {code:x}")
    assert estimate_tokens(text) == before
    monkeypatch.setattr(tokens, "_BLOCK", 100)
    monkeypatch.setattr(tokens, "_REMEMBERED", 10)
    assert estimate_tokens(text) == before


@pytest.mark.parametrize(
    "text",
    [
        " " * 2_000_000,
        " " * 2_000_000 + "x",
        "\n" * 1_000_000,
        " \t" * 500_000 + "x",
        "x" * 2_000_000,
        "A" * 1_000_000 + "1",
        "aA" * 250_000,
        ".a" * 250_000,
        "e" + "\u0301" * 1_000_000,
        "\ud83d" * 1_000_000,
        "\x00" * 1_000_000,
        "(){};" * 200_000,
        "9" * 1_000_000,
    ],
    ids=lambda text: ascii(text[:3]),
)
def test_no_text_is_slow(text: str) -> None:
    """Long words, blanks, marks, surrogates and zeros cost no more than time in proportion."""
    start = time.process_time()
    assert estimate_tokens(text) > 0
    assert time.process_time() - start < 4  # a hundred times what it takes, so a busy machine does not matter


def test_importing_the_estimator_is_light() -> None:
    """The estimator and the counter import no tokenizer and no other heavy package."""
    code = (
        "import sys, threadmark.memory.tokens_counter as c; c.TokenCounter().scale(3);"
        "print({'quicktok', 'bpe_openai', 'tiktoken', 'numpy'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


# -- messages ----------------------------------------------------------------------------------------


def test_message_counts_what_is_sent() -> None:
    """Text, reasoning, names, arguments and outcomes count; steps, errors and data parts do not."""
    args, output = {"city": "Zürich", "days": [1, 2]}, {"rows": ["a b c"] * 50}
    parts = (
        StepPart(model="m"),
        ReasoningPart("Look the weather up first."),
        TextPart("One moment."),
        ToolPart(tool_call_id="1", tool_name="weather", args=args, state="result", output=output),
        ErrorPart("Boom", "it broke " * 50),
        DataPart("chart", {"points": list(range(100))}),
    )
    sent = ['{"city":"Zürich","days":[1,2]}', '{"rows":[' + ",".join(['"a b c"'] * 50) + "]}"]
    expected = (
        4 + 12 + sum(map(estimate_tokens, ["Look the weather up first.", "One moment.", "weather", *sent]))
    )
    assert message_tokens(Message(role="assistant", parts=parts)) == expected


def test_message_outcomes() -> None:
    """A call without outcome costs its call, an error its text, strings are sent bare, odd values as text."""

    def cost(**fields: Any) -> int:
        return message_tokens(Message(parts=[ToolPart(tool_call_id="1", tool_name="t", **fields)]))

    call = cost()
    assert cost(state="error", error="no such file") == call + estimate_tokens("no such file")
    assert cost(state="result", output="no such file") == call + estimate_tokens("no such file")
    assert cost(state="result", output=0) == call + 1
    assert cost(args='{"broken": ') == call - estimate_tokens("{}") + estimate_tokens('{"broken": ')
    assert cost(state="result", output={1, 2}) > call


def test_message_files() -> None:
    """An image is 765 tokens, text its own count, other files go by bytes, or are a page when only a URL."""

    def cost(media_type: str, **fields: Any) -> int:
        return message_tokens(Message(parts=[FilePart(media_type=media_type, **fields)])) - 4

    text = PINNED["english"]["text"]
    assert cost("image/png", data=b"x" * 9) == cost("image/jpeg", url="https://example.com/a") == 765
    assert cost("text/plain", data=text.encode()) == cost("application/json", data=text.encode())
    assert cost("text/plain", data=text.encode()) == estimate_tokens(text)
    assert cost("application/pdf", data=b"x" * 100_001) == 4_001
    assert cost("audio/mpeg", data=b"x" * 1000) == 2
    assert cost("application/pdf", url="https://example.com/a") == 1500


def test_message_takes_another_count() -> None:
    """Any function from text to tokens can count."""
    assert message_tokens(Message.user("one two three"), lambda text: len(text.split())) == 4 + 3


# -- the counter -------------------------------------------------------------------------------------


def test_counter_starts_uncorrected() -> None:
    """Without reports a counter that estimates gives the estimate."""
    counter = TokenCounter(exact="off")
    text = PINNED["english"]["text"]
    assert counter.tokenizer is None
    assert counter.count(text) == counter.raw(text) == estimate_tokens(text)
    assert TokenCounter(exact="off", family="cl100k").count(text) == estimate_tokens(text, "cl100k")
    message = Message.user(text)
    assert counter.message(message) == counter.raw_message(message) == message_tokens(message)
    assert counter.count("") == 0


def test_counter_learns_from_two_reports() -> None:
    """One report moves a model half way, the second that agrees all the way; other models stay."""
    counter = TokenCounter(exact="off")
    counter.observe(1000, 1400, "m")
    assert counter.ratio("m") == pytest.approx(1.2)
    counter.observe(2000, 2800, "m")
    assert counter.ratio("m") == pytest.approx(1.4)
    assert counter.scale(100, "m") == 140
    assert counter.ratio("other") == counter.ratio() == 1
    message = Message.user("hello there")
    assert counter.message(message, "m") == round(1.4 * message_tokens(message))
    assert counter.count("hi", "m") >= 1


def test_counter_ignores_what_cannot_be() -> None:
    """Tiny calls, zeros, negatives and ratios beyond five teach nothing."""
    counter = TokenCounter(exact="off")
    for estimated, actual in ((50, 100), (1000, 0), (0, 1000), (-5, -5), (1000, 6000), (6000, 1000)):
        counter.observe(estimated, actual, "m")
    assert counter.ratio("m") == 1
    assert counter.state()["ratios"] == {}


def test_counter_withstands_outliers_and_stays_in_bounds() -> None:
    """A few odd reports among many change little, and no correction leaves 0.5 to 3.5."""
    counter = TokenCounter(exact="off")
    for at in range(30):
        counter.observe(1000, 4000 if at % 6 == 0 else 1250, "m")
    assert counter.ratio("m") == pytest.approx(1.25)
    for _ in range(40):
        counter.observe(1000, 4000, "high")
        counter.observe(1000, 300, "low")
    assert (counter.ratio("high"), counter.ratio("low")) == (3.5, 0.5)
    assert counter.scale(1, "low") == 1


@given(st.lists(st.integers(500, 2000), min_size=1, max_size=31), st.randoms(use_true_random=False))
def test_counter_does_not_mind_the_order(reports: list[int], shuffler: random.Random) -> None:
    """The same reports in another order give the same correction."""
    first, second = TokenCounter(exact="off"), TokenCounter(exact="off")
    shuffled = reports.copy()
    shuffler.shuffle(shuffled)
    for one, other in zip(reports, shuffled, strict=True):
        first.observe(1000, one)
        second.observe(1000, other)
    assert first.ratio() == second.ratio()


def test_counter_state_is_small_json_and_restores() -> None:
    """State survives JSON, is bounded in models and reports, and gives the same corrections again."""
    counter = TokenCounter(exact="off")
    for model in range(200):
        for report in range(50):
            counter.observe(1000, 1100 + model + report, f"model-{model}")
    dumped = json.dumps(counter.state())
    assert len(dumped) < 30_000
    again = TokenCounter(exact="off", state=json.loads(dumped))
    assert again.state() == counter.state()
    assert again.ratio("model-199") == counter.ratio("model-199") > 1.2
    assert again.ratio("model-0") == 1


@pytest.mark.parametrize(
    "state",
    [{}, {"version": 2, "ratios": {}}, {"version": 1}, {"version": 1, "ratios": []}, []]
    + [
        {"version": 1, "ratios": {"m": bad}}
        for bad in (1, "x", ["x"], [0], [-1], [True], [float("nan")], [None])
    ],
)
def test_counter_refuses_a_foreign_state(state: Any) -> None:
    """A state that no counter gave is an error."""
    with pytest.raises(ValidationError):
        TokenCounter(state=state)


def test_counter_refuses_unknown_choices() -> None:
    """Families and exactness are checked when the counter is made."""
    with pytest.raises(ValidationError, match="family"):
        TokenCounter(family="p50k")
    with pytest.raises(ValidationError, match="exact"):
        TokenCounter(exact="always")  # type: ignore[arg-type]


# -- exact tokenizers --------------------------------------------------------------------------------


def test_counter_uses_an_exact_tokenizer_and_the_estimate_where_it_cannot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a tokenizer counts are its own, still corrected; what it cannot tell is estimated."""
    monkeypatch.setattr(
        "threadmark.memory.tokens_counter.exact_counter",
        lambda family: ("words", lambda text: None if "?" in text else len(text.split())),
    )
    counter = TokenCounter()
    assert counter.count("one two three") == 3
    assert counter.tokenizer == "words"
    assert counter.count("one two?") == estimate_tokens("one two?")
    for _ in range(2):
        counter.observe(1000, 2000)
    assert counter.count("one two three") == 6
    assert TokenCounter(exact="off").tokenizer is None


def test_missing_tokenizers_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages that are missing or broken leave the estimate."""
    for package in ("quicktok", "bpe_openai", "tiktoken"):
        monkeypatch.setitem(sys.modules, package, None)
    assert tokens_exact.exact_counter("o200k") is None
    assert tokens_exact.exact_counter("unknown") is None


def test_tiktoken_without_its_vocabulary_is_never_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tiktoken` is not even imported when its cache lacks the vocabulary, is off, or holds another file."""
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert tokens_exact._tiktoken("o200k_base") is None
    (tmp_path / "fb374d419588a4632f3f557e76b4b70aebbca790").write_text("not the vocabulary")
    assert tokens_exact._tiktoken("o200k_base") is None
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    assert tokens_exact._tiktoken("o200k_base") is None


@pytest.mark.parametrize("family", FAMILIES)
def test_installed_tokenizer_agrees_with_the_pinned_counts(family: str) -> None:
    """An installed tokenizer gives the pinned counts, and copes with surrogates, zeros and special tokens."""
    counter = TokenCounter(family=family)
    if family not in tokens_prices.PRICES:
        assert counter.tokenizer is None, "nobody else publishes one that runs here"
        return
    if counter.tokenizer is None:
        pytest.skip(reason="no exact tokenizer: install quicktok-v1 or bpe-openai, or fill tiktoken's cache")
    for name, pinned in PINNED.items():
        assert counter.count(pinned["text"]) == pinned[family], name
    for text in ("\ud800", "a\x00b", "<|endoftext|>", "x" * 100_000):
        assert counter.count(text) >= 1
    assert counter.count("") == 0

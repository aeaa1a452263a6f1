"""The fingerprint of a prompt's stable part, and what is remembered of texts that were counted."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadmark import ContextReport, Memory, Message, ReasoningPart, StepPart, TextPart, ToolPart
from threadmark._types import Part
from threadmark.memory import tokens_counter
from threadmark.memory.context.build import _fit_memory
from threadmark.memory.context.render import render_memory
from threadmark.memory.context.stability import Outline, fingerprint
from threadmark.memory.tokens import estimate_tokens
from threadmark.memory.tokens_counter import TokenCounter

PARTS: st.SearchStrategy[Part] = st.one_of(
    st.builds(TextPart, st.text("ab:1\n\x00u", max_size=6), st.sampled_from([None, {"id": "1"}, {"id": 1}])),
    st.builds(StepPart, provider=st.sampled_from([None, {"id": "1"}])),
    st.builds(ReasoningPart, st.text("ab1:", max_size=3), st.sampled_from([None, "s"])),
    st.builds(
        ToolPart,
        tool_call_id=st.just("c"),
        tool_name=st.just("look"),
        args=st.sampled_from([{}, {"a": 1}, {"a": 1.0}, {"a": True}, "1", 1]),
    ),
)
MESSAGES = st.lists(
    st.builds(Message, role=st.sampled_from(["user", "assistant"]), parts=st.lists(PARTS, max_size=3)),
    max_size=4,
)


def content(messages: list[Message]) -> str:
    """What a model is shown of messages, written out: 1, 1.0 and True are told apart."""
    return repr([(message.role, message.parts) for message in messages])


@given(MESSAGES, MESSAGES, MESSAGES)
def test_only_the_same_beginning_has_the_same_fingerprint(
    first: list[Message], second: list[Message], more: list[Message]
) -> None:
    """A fingerprint is found at the front of another prompt exactly if its messages stand there unchanged."""
    before, _ = fingerprint("Be nice.", first, "")
    assert fingerprint("Be nice.", [*first, *more], before)[1] == len(first)
    assert fingerprint("Be kind.", [*first, *more], before)[1] is None
    stands = content(second[: len(first)]) == content(first)
    assert (fingerprint("Be nice.", second, before)[1] == len(first)) is stands
    assert (fingerprint("Be nice.", second, "")[0] == before) is (content(first) == content(second))


@pytest.mark.parametrize("damaged", ["", "x", ":", "1:", "-1:ab", "99:ab", "²:ab", "1:zz"])
def test_a_damaged_fingerprint_is_no_match(damaged: str) -> None:
    """Whatever stands in the database, a prompt is made."""
    assert fingerprint("", [Message.user("a")], damaged)[1] is None


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")), st.integers(0, 2**62))
def test_an_outline_tells_what_two_prompts_share(one: list[str], other: list[str], end: int) -> None:
    """With how many pieces both begin, and which are in both; written and read it stays as it is."""
    first, second = Outline.of(one, end), Outline.of(other, 0)
    assert Outline.read(str(first)) == first
    begins = first.begins(second)
    assert one[:begins] == other[:begins]
    assert begins in (len(one), len(other)) or one[begins] != other[begins]
    common = [one[place] for place in first.common(second)]
    assert sorted(common) == sorted((Counter(one) & Counter(other)).elements())
    assert list(range(begins)) == first.common(second)[:begins]


@pytest.mark.parametrize("damaged", ["", "x", ":", "-1:", "²:ab", "9" * 30])
def test_a_damaged_outline_matches_nothing(damaged: str) -> None:
    """Whatever stands in the database."""
    assert Outline.read(damaged) == Outline()
    assert Outline.read("1:zz").begins(Outline.of(["a"], 1)) == 0


@pytest.mark.anyio
async def test_the_report_says_what_a_cache_can_serve() -> None:
    """Of what a prompt repeats: all of it in a turn without a break, the instructions alone after a cut."""
    memory = Memory("sqlite://", last_messages=2, history_slack=4)

    async def ask(number: int, instructions: str = "Be nice.") -> ContextReport:
        asked = [Message.user(f"question {number} of some length")]
        turn = await memory.open_turn(resource="ana", thread="t", input=asked)
        report = turn.prompt(instructions).report
        await turn.commit(Message.assistant("an answer to that"))
        return report

    reports = [await ask(number) for number in range(8)]
    first = reports[0]
    assert (first.reused_tokens, first.repeated_tokens, first.prefix_reuse) == (0, 0, 1.0)
    steady = [one for one in reports[1:] if not one.breaks]
    assert steady
    assert [one.prefix_reuse for one in steady] == [1.0] * len(steady)
    before = [reports[reports.index(one) - 1].stable_tokens for one in steady]
    assert [one.reused_tokens for one in steady] == before
    moved = [one for one in reports if one.breaks]
    assert moved
    for one in moved:
        kept = next(block.tokens for block in one.blocks if block.kind == "history")
        start = estimate_tokens("Be nice.")
        assert one.reused_tokens == start
        assert start <= one.repeated_tokens <= start + kept
    other = await ask(8, "Be kind.")
    assert (other.reused_tokens, other.prefix_reuse) == (0, 0.0)
    await memory.aclose()


@pytest.mark.anyio
async def test_a_change_elsewhere_is_seen(memory: Memory) -> None:
    """A message that another handle changed or deleted is shown as it is, counted anew, and named."""
    texts = ["one two three", "four five six seven", "eight"]
    for text in texts:
        turn = await memory.open_turn(resource="ana", thread="t", input=[Message.user(text)])
        turn.prompt()
        await turn.commit(Message.assistant("ok"))
    thread = memory.resource("ana").thread("t")
    first = (await thread.messages()).messages[0]

    async def now() -> tuple[list[str], int, tuple[str, ...]]:
        turn = await memory.open_turn(resource="ana", thread="t", input=[Message.user("q")])
        prompt = turn.prompt()
        history = next(block for block in prompt.report.blocks if block.kind == "history")
        return [m.text for m in prompt.messages[:-1]], history.tokens, prompt.report.breaks

    shown, tokens, breaks = await now()
    assert not breaks
    await thread.update_message(first.id, text="a longer beginning than there was before")
    changed, more, broken = await now()
    assert changed == ["a longer beginning than there was before", *shown[1:]]
    assert more - tokens == estimate_tokens(changed[0]) - estimate_tokens(shown[0])
    assert broken == ("the instructions or stored messages changed",)


def test_a_text_is_counted_once_and_a_changed_one_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts are remembered by content, a bounded number of them, without the texts."""
    asked: list[str] = []

    def counted(text: str, family: str) -> int:
        asked.append(text)
        return len(text)

    monkeypatch.setattr(tokens_counter, "estimate_tokens", counted)
    monkeypatch.setattr(tokens_counter, "_REMEMBERED", 4)
    counter = TokenCounter(exact="off")
    assert [counter.raw(text) for text in ("a", "bb", "a", "bb", "a")] == [1, 2, 1, 2, 1]
    assert asked == ["a", "bb"]
    for number in range(50):
        assert counter.raw("x" * number) == number
        assert counter.raw("a") == 1
    assert asked.count("a") < 3
    assert len(counter._recent) + len(counter._older) <= 8


def test_shortening_working_memory_takes_few_counts() -> None:
    """The longest beginning that fits is found in about as many counts as the lines have digits in binary."""
    block = render_memory("\n".join(f"- fact number {i}" for i in range(5000)), 3)
    asked = 0

    def count(text: str) -> int:
        nonlocal asked
        asked += 1
        return estimate_tokens(text)

    shown, cut = _fit_memory(block, 1000, count)
    assert cut
    assert 980 <= estimate_tokens(shown) <= 1000
    assert shown.endswith("\n[the rest did not fit]\n</working_memory>")
    assert asked < 20
    assert _fit_memory(block, 1, count)[0].count("\n") == 2
    assert _fit_memory("", 0, count) == ("", False)

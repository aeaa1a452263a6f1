"""Filters of text: patterns, Unicode, instructions. However an answer is cut, they make the same of it."""

from __future__ import annotations

import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threadmark import ConfigurationError, FilePart, Memory, Message, Speaker, TextPart, ThreadmarkError
from threadmark.agents import Agent, RequestContext
from threadmark.processors import (
    PATTERNS,
    OutputDelta,
    Pattern,
    PIIRedactor,
    Processor,
    ProcessorContext,
    RegexFilter,
    SystemPromptScrubber,
    TokenLimiter,
    UnicodeNormalizer,
)
from threadmark.processors.unicode_normalizer import starts_anew
from threadmark.testing import ScriptedModel, ToolCall

from .conftest import both, dump, run

pytestmark = pytest.mark.anyio

INSTRUCTIONS = (
    "You are Nora, the helpful assistant of Acme. Never tell anybody about the price of the blue box."
)


def context(**values: Any) -> ProcessorContext:
    return ProcessorContext(
        run_id="r",
        agent="a",
        model="m",
        request_context=RequestContext(),
        instructions=INSTRUCTIONS,
        **values,
    )


def filtered(processor: Processor, pieces: list[str]) -> str:
    """What a processor makes of a part that comes in `pieces`."""
    import asyncio

    async def feed() -> str:
        ctx = context(step=1)
        out = []
        for index, piece in enumerate(pieces):
            last = index == len(pieces) - 1
            delta = OutputDelta(kind="text", part=0, text=piece, last=last)
            made: Any = processor.process_output_stream(delta, ctx)
            made = await made
            out.append(piece if made is None else made)
        return "".join(out)

    return asyncio.run(feed())


def cut(text: str, data: st.DataObject) -> list[str]:
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=20)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


FRAGMENTS = [
    "ana@example.com", "a.b+c@mail.example.co.uk", "4111 1111 1111 1111", "4111111111111111",
    "+49 30 1234567", "(212) 555-0100", "DE89 3704 0044 0532 0130 00", "10.0.0.1", "2001:db8::1",
    "sk-abcdefghijklmnop1234", "ghp_abcdefghijklmnopqrst12345678",
    "You are Nora, the helpful assistant of Acme.", "never TELL anybody about", "the price of the blue box",
    "e\u0301", "\u1100\u1161\u11a8", "\ufb01", "\u200b", "\u202e", "한", "ö", "12", " ", "-", ".", "\n",
    "日本語", "and", "👩\u200d👩\u200d👧", "\u0327\u0301", "@", "a", "::", "x" * 70,
]  # fmt: skip
texts = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5), max_size=30).map("".join)

STREAMED: list[Processor] = [
    PIIRedactor(),
    RegexFilter(["email"]),
    RegexFilter([Pattern("digits", r"\d{2,4}", max_length=5), "ip"], replacement="#"),
    RegexFilter([Pattern("any", r"[a-z]+\d*")]),
    UnicodeNormalizer(),
    UnicodeNormalizer("NFKC", joiners=True),
    UnicodeNormalizer(None),
    SystemPromptScrubber(),
    SystemPromptScrubber(words=4, protect=["one two three four", "and and and and and"]),
    TokenLimiter(20),
]


@pytest.mark.parametrize("processor", STREAMED, ids=lambda p: p.name)
@settings(deadline=None)
@given(text=texts, data=st.data())
def test_any_cut_gives_the_same(processor: Processor, text: str, data: st.DataObject) -> None:
    """The filtered text does not depend on the pieces it came in."""
    assert filtered(processor, cut(text, data)) == filtered(processor, [text])


@pytest.mark.parametrize("processor", STREAMED, ids=lambda p: p.name)
def test_character_by_character(processor: Processor) -> None:
    """A long text, one character at a time."""
    text = " ".join(FRAGMENTS) * 5
    assert filtered(processor, list(text)) == filtered(processor, [text])


# -- patterns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("email", "write to ana.b+c@mail.example.co.uk.", "write to [email]."),
        ("email", "<jürgen@müller.de>", "<[email]>"),
        ("email", "a @ b, @home, x@y", "a @ b, @home, x@y"),
        ("credit_card", "4111 1111 1111 1111", "[credit_card]"),
        ("credit_card", "card:4111-1111-1111-1111!", "card:[credit_card]!"),
        ("credit_card", "4111 1111 1111 1111 22", "[credit_card] 22"),
        ("credit_card", "1 4111 1111 1111 1111", "1 [credit_card]"),
        ("credit_card", "378282246310005", "[credit_card]"),
        ("credit_card", "4111 1111 1111 1112", "4111 1111 1111 1112"),
        ("credit_card", "0000 0000 0000 0000", "0000 0000 0000 0000"),
        ("iban", "DE89 3704 0044 0532 0130 00 THANKS", "[iban] THANKS"),
        ("iban", "GB82WEST12345698765432", "[iban]"),
        ("iban", "DE89 3704 0044 0532 0130 01", "DE89 3704 0044 0532 0130 01"),
        ("phone", "call +49 30 1234567 or (212) 555-0100.", "call [phone] or [phone]."),
        ("phone", "030 123 4567", "[phone]"),
        ("phone", "on 2024-01-15 10:30, no 1234567890, 1.2.3", "on 2024-01-15 10:30, no 1234567890, 1.2.3"),
        ("ip", "10.0.0.1:8080 and ip:10.0.0.2.", "[ip]:8080 and ip:[ip]."),
        ("ip", "fe80::1, 2001:db8:0:0:0:0:0:1, ::ffff:10.0.0.1", "[ip], [ip], [ip]"),
        ("ip", "256.1.1.1, 12:30:45, std::vector, x::y", "256.1.1.1, 12:30:45, std::vector, x::y"),
        ("api_key", "key sk-proj-abcdefghijklmnop_123 ok", "key [api_key] ok"),
        ("api_key", f"eyJhbGciOiJIUzI1NiJ9.{'a' * 900}.{'b' * 40} end", "[api_key] end"),
        ("api_key", "task-force-management-of-things", "task-force-management-of-things"),
        ("api_key", "AKIAIOSFODNN7EXAMPLE", "[api_key]"),
    ],
)  # fmt: skip
def test_presets(kind: str, text: str, expected: str) -> None:
    """What each preset finds, and what it leaves alone."""
    assert filtered(RegexFilter([kind]), [text]) == expected
    assert filtered(RegexFilter([kind]), list(text)) == expected


def test_presets_stay_within_their_reach() -> None:
    """No preset decides on more characters than it says; a match grows only by its tail."""
    assert all(pattern.max_length for pattern in PATTERNS.values())
    assert PIIRedactor().streams


@both
async def test_redaction_of_a_turn(memory: Memory, mode: str) -> None:
    """Nothing that was redacted is sent, told or stored."""
    reply = "Sure, I wrote ana@example.com and 4111 1111 1111 1111 down. " + "More text follows here. " * 20
    model = ScriptedModel([reply], chunk=3)
    redact = PIIRedactor()
    agent = Agent("a", model=model, memory=memory, input_processors=[redact], output_processors=[redact])
    told = await run(agent, mode, "I am ana@example.com", resource="ana", thread="t")
    assert model.requests[0].messages[0].text == "I am [email]"
    assert told.result.text.startswith("Sure, I wrote [email] and [credit_card] down. More")
    if mode == "stream":
        assert told.text == told.result.text
        assert told.kinds.count("text-delta") > 3
    rows = repr(await dump(memory))
    assert "example.com" not in rows
    assert "4111" not in rows


@both
async def test_block(memory: Memory, mode: str) -> None:
    """ "block" stops the run, and says which pattern it was, not what it found."""
    before = await dump(memory)
    agent = Agent(
        "a",
        model=ScriptedModel(["mail ana@example.com"]),
        memory=memory,
        output_processors=[RegexFilter(["email"], action="block")],
    )
    told = await run(agent, mode, "q", resource="ana", thread="t")
    assert told.result.tripwire is not None
    assert told.result.tripwire.reason == "the text contains email"
    assert told.result.tripwire.metadata == {"found": {"email": 1}}
    assert "ana" not in told.text
    assert await dump(memory) == before


@both
async def test_block_and_answer_again(mode: str) -> None:
    """With `retry` the model gets another chance."""
    model = ScriptedModel(["mail ana@example.com", "I cannot say."])
    agent = Agent("a", model=model, output_processors=[PIIRedactor(action="block", retry=True)])
    told = await run(agent, mode, "q")
    assert told.result.text == "I cannot say."


async def test_tool_results() -> None:
    """Outcomes of tools are looked at when asked to, keys and errors included."""

    def find(fail: bool) -> dict[str, Any]:
        """Find."""
        if fail:
            raise ValueError("no such user ana@example.com")
        return {"ana@example.com": ["bob@example.com", 1]}

    calls = [[ToolCall("find", {"fail": False}), ToolCall("find", {"fail": True})], "ok"]
    for tool_results in (False, True):
        agent = Agent(
            "a",
            model=ScriptedModel(calls),  # type: ignore[arg-type]
            tools=[find],
            output_processors=[PIIRedactor(["email"], tool_results=tool_results)],
        )
        first, second = (await agent.generate("q")).tool_calls
        assert ("example" in f"{first}{second}") != tool_results
        if tool_results:
            assert first.output == {"[email]": ["[email]", 1]}
            assert second.error == "ValueError: no such user [email]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["mail"],), "there is no pattern 'mail'; there are email"),
        (("email",), r"write \['email'\]"),
        (([],), "at least one"),
        (([Pattern("x", "(")],), "no regular expression"),
        (([Pattern("x", "a*")],), "matches the empty text"),
    ],
)
def test_bad_patterns(arguments: Any, message: str) -> None:
    """Patterns that cannot work are refused."""
    with pytest.raises(ConfigurationError, match=message):
        RegexFilter(*arguments)


def test_a_pattern_of_unknown_length_is_not_streamed() -> None:
    """Without `max_length` text is held back until it is whole."""
    assert not RegexFilter([Pattern("x", "a+b")]).streams
    assert RegexFilter([Pattern("x", "a{1,9}b", max_length=10)]).streams


# -- Unicode -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("processor", "text", "expected"),
    [
        (UnicodeNormalizer(), "cafe\u0301", "caf\u00e9"),
        (UnicodeNormalizer(), "ig\u200bnore\u202e\x00\U000e0041", "ignore"),
        (UnicodeNormalizer(), "a\tb\nc\rd", "a\tb\nc\rd"),
        (UnicodeNormalizer(), "👩\u200d👧", "👩\u200d👧"),
        (UnicodeNormalizer(joiners=True), "a\u200db", "ab"),
        (UnicodeNormalizer("NFKC"), "\ufb01\uff21", "fiA"),
        (UnicodeNormalizer(None), "e\u0301\u200b", "e\u0301"),
        (UnicodeNormalizer(None, invisible=False), "\u200b\u202e", "\u200b"),
        (UnicodeNormalizer(None, invisible=False, bidi=False, control=False), "\u200b\x00", "\u200b\x00"),
        (UnicodeNormalizer(), "x\ud800y", "xy"),
    ],
)
def test_unicode(processor: UnicodeNormalizer, text: str, expected: str) -> None:
    """What is normalised and stripped, in the input as in the answer."""
    assert processor.normalize(text) == expected
    assert filtered(processor, [text]) == expected
    assert filtered(processor, list(text)) == expected


def test_every_cut_before_a_character_that_starts_anew_is_safe() -> None:
    """No character that is taken for a boundary ever combines with one before it, in all of Unicode."""
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        pair = unicodedata.normalize("NFD", character)
        if len(pair) > 1 and unicodedata.normalize("NFC", pair) == character:
            before = unicodedata.normalize("NFC", pair[:-1])
            if len(before) == 1:
                assert not starts_anew(pair[-1]), hex(code)
        if unicodedata.combining(character):
            assert not starts_anew(character), hex(code)


async def test_a_message_of_nothing_visible() -> None:
    """A message of invisible characters alone stops the run."""
    agent = Agent("a", model=ScriptedModel([]), input_processors=[UnicodeNormalizer()])
    result = await agent.generate("\u200b\u202e")
    assert result.tripwire is not None
    assert result.tripwire.reason == "the message holds no visible text"


# -- instructions ------------------------------------------------------------------------------------


def test_scrubber() -> None:
    """Passages of eight words are redacted, whatever case and punctuation; shorter ones stay."""
    text = "Rules: YOU are   Nora the helpful - assistant of Acme, never tell anybody! I am the helpful."
    assert filtered(SystemPromptScrubber(), [text]) == "Rules: [redacted]! I am the helpful."
    assert filtered(SystemPromptScrubber(), ["the price of the blue box"]) == "the price of the blue box"
    assert filtered(SystemPromptScrubber(words=6), ["the price of the blue box."]) == "[redacted]."
    protect = SystemPromptScrubber(protect=["alpha beta gamma delta"])
    assert filtered(protect, ["it is alpha beta gamma delta!"]) == "it is [redacted]!"


@both
async def test_scrubber_in_a_run(mode: str) -> None:
    """It knows the instructions of the run, also those that the call gave."""
    leak = "They told me: keep the launch date of the red rocket to yourself always. Bye."
    for options in ({"instructions": "Keep the launch date of the red rocket to yourself always."},
                    {"system": "Keep the launch date of the red rocket to yourself always."}):  # fmt: skip
        agent = Agent("a", model=ScriptedModel([leak]), output_processors=[SystemPromptScrubber()])
        told = await run(agent, mode, "q", **options)
        assert told.result.text == "They told me: [redacted]. Bye."
    blocked = Agent(
        "a",
        instructions="Keep the launch date of the red rocket to yourself always.",
        model=ScriptedModel([leak]),
        output_processors=[SystemPromptScrubber(action="block")],
    )
    told = await run(blocked, mode, "q")
    assert told.result.tripwire is not None
    assert told.text == ""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SystemPromptScrubber(words=3), "words"),
        (lambda: SystemPromptScrubber(action="x"), "action"),  # type: ignore[arg-type]
        (lambda: SystemPromptScrubber(protect="x"), "protect"),
        (lambda: UnicodeNormalizer("NFX"), "form"),  # type: ignore[arg-type]
        (lambda: RegexFilter(["email"], action="x"), "action"),  # type: ignore[arg-type]
    ],
)
def test_bad_options(make: Any, message: str) -> None:
    """Options that cannot be are refused."""
    with pytest.raises(ThreadmarkError, match=message):
        make()


async def test_memory_still_speaks_when_the_input_is_changed(memory: Memory) -> None:
    """What working memory tells the model along with a question survives processors that rewrite it."""
    model = ScriptedModel(lambda request: "ok")
    agent = Agent("a", model=model, memory=memory, input_processors=[PIIRedactor()])
    options: Any = {"resource": "ana", "thread": "t", "working_memory": True}
    await agent.generate("hello", **options)
    await memory.resource("ana").working_memory.set("# Ana\n- likes tea")
    await agent.generate("I am ana@example.com", **options)
    sent = model.requests[1].messages[-1].text
    assert "likes tea" in sent
    assert sent.endswith("I am [email]")
    await agent.generate("and now", **options)
    assert model.requests[2].messages[2].text == sent


@both
async def test_asking_a_stored_message_again(memory: Memory, mode: str) -> None:
    """A stored message that is asked again is sent as processors make it, and stays stored as it was."""
    await memory.resource("ana").threads.create("t")
    stored = Message.user("I am ana@example.com")
    await memory.resource("ana").thread("t").save([stored])
    model = ScriptedModel(["ok"])
    agent = Agent("a", model=model, memory=memory, input_processors=[PIIRedactor()])
    await run(agent, mode, stored, resource="ana", thread="t")
    assert [message.text for message in model.requests[0].messages] == ["I am [email]"]
    page = await memory.resource("ana").thread("t").messages()
    assert [message.text for message in page.messages] == ["I am ana@example.com", "ok"]


async def test_input_keeps_what_is_not_text(memory: Memory) -> None:
    """Redacting input keeps ids, speakers, metadata and parts that are no text."""
    file = FilePart(media_type="image/png", data=b"x")
    given = Message(
        parts=[TextPart("mail ana@example.com"), file],
        id="m1",
        speaker=Speaker(id="s", name="Ana"),
        metadata={"k": 1},
    )
    agent = Agent("a", model=ScriptedModel(["ok"]), memory=memory, input_processors=[PIIRedactor()])
    result = await agent.generate(given, resource="ana", thread="t")
    stored = result.messages[0]
    assert (stored.id, stored.speaker, stored.metadata) == ("m1", given.speaker, {"k": 1})
    assert stored.parts == (TextPart("mail [email]"), file)


def test_time_grows_with_the_text() -> None:
    """Many matches of one pattern, and none of the others, take time in proportion to the text."""
    import time

    def seconds(count: int) -> float:
        text = "ana@example.com and " * count
        started = time.process_time()
        assert filtered(PIIRedactor(), [text]).count("[email]") == count
        return time.process_time() - started

    seconds(100)
    assert seconds(4000) < 60 * max(seconds(400), 0.001)

"""The offline responder quotes one owner's memory, verbatim, and says what it is."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from threadmark import Memory, Message, Speaker, StepPart, TextPart
from threadmark._sync import run_sync
from threadmark.models.base import ModelRequest, PartDelta, PartEnded, PartStarted, ResponseEnded
from threadmark.offline import OfflineResponder, search
from threadmark.offline._responder import INTRODUCTION
from threadmark.offline._search import MODEL_NAME

pytestmark = pytest.mark.anyio

START = datetime(2026, 11, 21, 14, 5, tzinfo=UTC)


async def tell(memory: Memory, user: str, title: str, *messages: str | Message, day: int = 0) -> None:
    """Store `messages`, a minute apart, in a thread called `title`."""
    handle = memory.resource(user).thread(title)
    if await handle.get() is None:
        await memory.resource(user).threads.create(title, title=title)
    for minute, given_ in enumerate(messages):
        message = Message.user(given_) if isinstance(given_, str) else given_
        await handle.save([message.replace(created_at=START + timedelta(days=day, minutes=minute))])


async def ask(memory: Memory, user: str, question: str, *before: Message) -> str:
    responder = OfflineResponder(memory.resource(user), timezone=UTC)
    response = await responder.request(ModelRequest(messages=[*before, Message.user(question)]))
    (part,) = response.parts
    assert isinstance(part, TextPart)
    return part.text


SEEN = Message.assistant("An earlier answer.")


async def test_it_quotes_with_conversation_and_time(memory: Memory) -> None:
    """The answer names the conversation and the time, and quotes the sentence."""
    await tell(memory, "ana", "Holiday plans", "My name is Ana. I love hiking in Japan.")

    assert await ask(memory, "ana", "Where do I like to hike?", SEEN) == (
        "On 21 November 2026 at 14:05, in \u201cHoliday plans\u201d, "
        "you said: \u201cI love hiking in Japan.\u201d"
    )


async def test_it_says_what_it_is_once_a_conversation(memory: Memory) -> None:
    """The first answer of a conversation begins with what is answering; later ones do not."""
    assert (await ask(memory, "ana", "Hello")).startswith(f"{INTRODUCTION}\n")
    assert INTRODUCTION not in await ask(memory, "ana", "Hello", SEEN)


async def test_users_are_apart(memory: Memory) -> None:
    """Another user's memory is not there."""
    await tell(memory, "ana", "Holiday plans", "I love hiking in Japan.")

    assert await ask(memory, "bob", "Where do I like to hike?", SEEN) == "Memory holds nothing of you yet."


async def test_nothing_about_it(memory: Memory) -> None:
    """A question that nothing answers says so, and how much there is."""
    await tell(memory, "ana", "t", "My name is Ana.", "I live in Oslo.")

    assert await ask(memory, "ana", "Do I own a boat?", SEEN) == (
        "Memory holds 2 messages from your conversations, and none is about that."
    )


async def test_the_newer_of_two_statements_comes_first(memory: Memory) -> None:
    """What was said last comes first, whatever its wording."""
    await tell(memory, "ana", "Colours", "My favourite colour is blue.")
    await tell(memory, "ana", "Later", "Actually, my favourite colour is now green, not blue.", day=3)

    answer = await ask(memory, "ana", "What is my favourite colour?", SEEN)

    assert re.findall("\u201c([^\u201d]*)\u201d", answer) == [
        "Later",
        "Actually, my favourite colour is now green, not blue.",
        "Colours",
        "My favourite colour is blue.",
    ]


async def test_a_statement_is_noted_with_what_is_related(memory: Memory) -> None:
    """A statement is not answered like a question."""
    await tell(memory, "ana", "Colours", "My favourite colour is blue.", "I like sushi.")

    answer = await ask(memory, "ana", "My favourite colour is green now.", SEEN)

    assert answer == (
        "Noted: this is stored with this conversation.\nRelated: On 21 November 2026 at 14:05, "
        "in \u201cColours\u201d, you said: \u201cMy favourite colour is blue.\u201d"
    )
    assert (
        await ask(memory, "ana", "I enjoy tennis.", SEEN) == "Noted: this is stored with this conversation."
    )


async def test_questions_are_quoted_only_for_want_of_statements(memory: Memory) -> None:
    """An earlier question is no answer."""
    await tell(memory, "ana", "t", "What colour is my car?", "The car is at the garage.")

    assert "What colour" not in await ask(memory, "ana", "Where is my car?", SEEN)
    assert await ask(memory, "ana", "What colour?", SEEN) == (
        "Memory holds no statement about that, only this:\nOn 21 November 2026 at 14:05, "
        "in \u201ct\u201d, you asked: \u201cWhat colour is my car?\u201d"
    )


async def test_assistants_come_after_users_and_itself_never(memory: Memory) -> None:
    """A model's words are quoted as such, after the user's; the responder's own answers are not quoted."""
    own = Message(
        role="assistant", parts=[StepPart(model=MODEL_NAME), TextPart("You said: hiking in Japan.")]
    )
    await tell(
        memory,
        "ana",
        "t",
        "I love hiking.",
        own,
        Message.assistant("Hiking in Japan is best in May. Do you hike?"),
    )

    assert await ask(memory, "ana", "Where do I hike?", SEEN) == (
        "On 21 November 2026 at 14:05, in \u201ct\u201d, you said: \u201cI love hiking.\u201d\n"
        "On 21 November 2026 at 14:07, in \u201ct\u201d, the assistant said: "
        "\u201cHiking in Japan is best in May.\u201d"
    )


async def test_a_partial_match_is_called_that(memory: Memory) -> None:
    """A sentence that has only some of the question's words is given as the nearest."""
    await tell(memory, "ana", "t", "My name is Ana.")

    assert (await ask(memory, "ana", "What is the name of my dog?", SEEN)).startswith(
        "Nothing matches all of that. The nearest:\n"
    )


async def test_what_do_you_know_gives_the_newest(memory: Memory) -> None:
    """A question without words of its own gets the newest statements."""
    await tell(
        memory, "ana", "t", "One is a number.", "Two is a number.", "Three is a number.", "Where is four?"
    )
    await tell(memory, "ana", "t", "Five is a number.", day=1)

    answer = await ask(memory, "ana", "What do you know about me?", SEEN)

    assert re.findall("said: \u201c(.*)\u201d", answer) == [
        "Five is a number.",
        "Three is a number.",
        "Two is a number.",
    ]


async def test_who_am_i(memory: Memory) -> None:
    """Somebody who asks who they are asks for their name."""
    await tell(memory, "ana", "t", "My name is Ana.", "I live in Oslo.")

    assert re.findall("said: \u201c(.*)\u201d", await ask(memory, "ana", "Who am I?", SEEN)) == [
        "My name is Ana."
    ]


async def test_other_scripts(memory: Memory) -> None:
    """Chinese is found by pairs of characters, German by whole words."""
    await tell(
        memory,
        "ana",
        "t",
        "\u6211\u559c\u6b22\u5728\u65e5\u672c\u5f92\u6b65\u65c5\u884c\u3002\u6211\u53eb\u5b89\u5a1c\u3002",
        "Ich wandere gern.",
    )

    assert "\u201c\u6211\u559c\u6b22\u5728\u65e5\u672c\u5f92\u6b65\u65c5\u884c\u3002\u201d" in await ask(
        memory, "ana", "\u6211\u559c\u6b22\u4ec0\u4e48\uff1f"
    )
    assert "\u201cIch wandere gern.\u201d" in await ask(memory, "ana", "Wo wandere ich?")


async def test_this_conversation_and_named_speakers(memory: Memory) -> None:
    """A quote from the conversation itself says so, and a named speaker is named."""
    await tell(
        memory, "team", "t", Message.user("The deadline is Friday.", speaker=Speaker(id="1", name="Bo"))
    )
    (stored,) = await memory.resource("team").thread("t").messages()

    assert await ask(memory, "team", "When is the deadline?", stored, SEEN) == (
        "On 21 November 2026 at 14:05, in this conversation, Bo said: \u201cThe deadline is Friday.\u201d"
    )


async def test_a_stored_question_does_not_answer_itself(memory: Memory) -> None:
    """The message that is being answered may be stored already; it is not searched."""
    await tell(memory, "ana", "t", "What is hiking")
    (stored,) = await memory.resource("ana").thread("t").messages()
    responder = OfflineResponder(memory.resource("ana"))

    response = await responder.request(ModelRequest(messages=[stored]))

    assert response.parts == (TextPart(f"{INTRODUCTION}\nMemory holds nothing of you yet."),)


async def test_the_search_is_bounded_and_says_so(memory: Memory) -> None:
    """Only the newest messages are searched, and an answer without result names the bound."""
    await tell(memory, "ana", "t", "I own a boat.", "Two.", "Three.")
    responder = OfflineResponder(memory.resource("ana"), newest=2)

    response = await responder.request(ModelRequest(messages=[SEEN, Message.user("Do I own a boat?")]))

    assert response.parts == (
        TextPart(
            "Memory holds 3 messages from your conversations, and none is about that. "
            "I searched the newest 2."
        ),
    )


async def test_it_streams_in_words(memory: Memory) -> None:
    """The stream keeps the model contract, and its deltas are the answer."""
    await tell(memory, "ana", "t", "I own a boat.")
    responder = OfflineResponder(memory.resource("ana"), timezone=UTC)
    request = ModelRequest(messages=[Message.user("Do I own a boat?")])

    events = [event async for event in responder.stream(request)]

    assert events[0] == PartStarted(0, TextPart(""))
    deltas = [event.delta for event in events if isinstance(event, PartDelta)]
    assert len(deltas) > 10
    end, last = events[-2:]
    assert end == PartEnded(0, TextPart("".join(deltas)))
    assert isinstance(last, ResponseEnded)
    assert last.response == await responder.request(request)
    assert last.response.model == responder.name == MODEL_NAME


async def test_overlong_sentences_are_cut_and_marked(memory: Memory) -> None:
    """A page without a full stop is quoted in part, around the word."""
    text = "filler " * 200 + "the treasure is under the oak " + "filler " * 200
    await tell(memory, "ana", "t", text)

    found = await search(memory.resource("ana"), "Where is the treasure?")

    (quote,) = found.quotes
    assert not quote.whole
    assert "treasure" in quote.text
    assert quote.text in text
    assert len(quote.text) <= 300
    assert (await ask(memory, "ana", "Where is the treasure?")).endswith("\u201d (shortened)")


_word = st.sampled_from(
    (
        "hike",
        "hiking",
        "Japan",
        "blue",
        "colour",
        "dog",
        "\u65e5\u672c",
        "like",
        "caf\u00e9",
        "\u201c",
        "\u201d",
    )
)
_mark = st.sampled_from([". ", "? ", "! ", " ", "\n", "\u3002", "\r\n", "\x1b[2J", ", "])
_text = st.lists(st.tuples(_word, _mark), min_size=1, max_size=30).map(
    lambda pairs: "".join(word + mark for word, mark in pairs)
) | st.text(min_size=1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    told=st.lists(st.tuples(st.sampled_from(["user", "assistant"]), _text), max_size=6),
    foreign=st.lists(_text, max_size=2),
    question=_text,
)
def test_it_never_invents(told: list[tuple[str, str]], foreign: list[str], question: str) -> None:
    """Each quote is, byte for byte, a piece of one of the owner's messages; the rest is fixed phrases."""

    async def answered() -> str:
        async with Memory("sqlite://") as memory:
            user = memory.resource("ana")
            await user.threads.create("t", title="Title")
            for role, text in told:
                await user.thread("t").save({"role": role, "text": text})
            for text in foreign:
                await memory.resource("bob").thread("t").save(f"foreign {text}")
            return await ask(memory, "ana", question)

    for line in run_sync(answered()).split("\n"):
        quoted = _QUOTE.fullmatch(line)
        assert _PHRASE.fullmatch(line) or (quoted and any(quoted[1] in text for _, text in told)), line


_QUOTE = re.compile(
    "(?:Related: )?On \\d+ \\w+ \\d{4} at \\d\\d:\\d\\d, in \u201cTitle\u201d, "
    "(?:you|the assistant) (?:said|asked): "
    "\u201c(.*)\u201d(?: \\(shortened\\))?",
    re.DOTALL,
)
_PHRASE = re.compile(
    rf"{re.escape(INTRODUCTION)}"
    r"|Noted: this is stored with this conversation\."
    r"|Memory holds nothing of you yet\.(?: Tell something\.)?"
    r"|Memory holds \d+ messages? from your conversations"
    r"(?:, and none is about that\.|\. Ask about it, or tell something\.)"
    r"|Nothing matches all of that\. The nearest:"
    r"|Memory holds no statement about that, only this:"
)

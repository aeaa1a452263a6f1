"""A turn, as an agent uses it: one read transaction, one write transaction."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from threadmark import (
    ConfigurationError,
    ConflictError,
    Memory,
    Message,
    StepPart,
    TextPart,
    ThreadSpec,
    Usage,
    ValidationError,
)
from threadmark.memory.turn import Turn

pytestmark = pytest.mark.anyio


async def opened(memory: Memory, *texts: str | Message, **options: object) -> Turn:
    given = [Message.user(text) if isinstance(text, str) else text for text in texts]
    return await memory.open_turn(resource="ana", thread="t", input=given, options=options)


async def stored(memory: Memory) -> list[tuple[str, str]]:
    page = await memory.resource("ana").thread("t").messages(per_page=None)
    return [(message.role, message.text) for message in page]


async def test_a_turn_is_stored_whole(memory: Memory) -> None:
    """Opening writes nothing; committing stores thread, both messages and the run, adjacent and tagged."""
    turn = await opened(memory, "hi")
    assert (turn.thread, turn.history) == (None, ())
    assert await memory.resource("ana").threads.get("t") is None

    receipt = await turn.commit(
        Message.assistant("hello"), usage=Usage(input_tokens=5, output_tokens=2, requests=1)
    )
    assert receipt is not None
    assert receipt.created
    assert [(m.role, m.seq, m.run_id) for m in receipt.messages] == [
        ("user", 1, turn.run_id),
        ("assistant", 2, turn.run_id),
    ]
    run = await memory.resource("ana").run(turn.run_id)
    assert run is not None
    assert (run.status, run.finish_reason, run.usage.total_tokens, run.thread_id) == (
        "finished",
        "stop",
        7,
        "t",
    )
    assert run.finished_at is not None
    assert (await memory.resource("ana").thread("t").runs()).runs == (run,)


async def test_history_is_the_newest_messages(memory: Memory) -> None:
    """With `exact`, `last_messages` of them, oldest first; the option can be given per call."""
    for i in range(12):
        await (await opened(memory, f"q{i}")).commit(Message.assistant(f"a{i}"))
    assert len((await opened(memory, "x", exact=True)).history) == 10
    turn = await opened(memory, "x", last_messages=3, exact=True)
    assert [message.text for message in turn.history] == ["a10", "q11", "a11"]
    assert len((await opened(memory, "x", last_messages=None)).history) == 24


async def test_concurrent_turns_stay_together(memory: Memory) -> None:
    """Twenty turns at once on one thread: each answer stands right after its question."""

    async def talk(number: int) -> None:
        turn = await opened(memory, f"q{number}")
        await asyncio.sleep(0)
        await turn.commit(Message.assistant(f"a{number}"))

    await asyncio.gather(*(talk(number) for number in range(20)))
    page = await memory.resource("ana").thread("t").messages(per_page=None)
    assert [message.seq for message in page] == list(range(1, 41))
    for question, answer in zip(page.messages[::2], page.messages[1::2], strict=True):
        assert question.text[1:] == answer.text[1:]
        assert question.run_id == answer.run_id


async def test_read_only_and_no_history(memory: Memory) -> None:
    """Neither writes anything at all, not even the thread."""
    for options in ({"read_only": True}, {"last_messages": False}, {"last_messages": 0}):
        turn = await opened(memory, "hi", **options)
        await turn.begin()
        await turn.checkpoint(Message.assistant("x"))
        assert await turn.commit(Message.assistant("hello")) is None
    assert await memory.resource("ana").threads.get("t") is None
    await (await opened(memory, "hi")).commit(Message.assistant("hello"))
    assert len((await opened(memory, "x", read_only=True)).history) == 2
    assert len((await opened(memory, "x", last_messages=0)).history) == 0


async def test_the_thread_of_a_turn(memory: Memory) -> None:
    """Title and metadata are for its creation; later metadata is merged, a later title ignored."""

    async def talk(title: str, metadata: dict[str, int]) -> None:
        spec = ThreadSpec.of({"id": "t", "title": title, "metadata": metadata})
        turn = await memory.open_turn(resource="ana", thread=spec, input=[Message.user("hi")])
        await turn.commit(Message.assistant("hello"))

    await talk("First", {"a": 1})
    await talk("Second", {"b": 2})
    thread = await memory.resource("ana").threads.get("t")
    assert thread is not None
    assert (thread.title, thread.metadata) == ("First", {"a": 1, "b": 2})
    for bad in ({"title": "x"}, {"id": "t", "name": "x"}, {"id": ""}, {"id": "t", "metadata": [1]}):
        with pytest.raises(ValidationError):
            ThreadSpec.of(bad)


class TestInput:
    async def test_a_replay_adds_only_what_is_new(self, memory: Memory) -> None:
        """A client that sends the whole conversation, with or without ids, does not store it again."""
        await (await opened(memory, "q1")).commit(Message.assistant("a1"))
        turn = await opened(
            memory, Message.user("q1"), Message.assistant("a1 edited"), Message.user("q2"), Message.user("q3")
        )
        assert [message.text for message in turn.input] == ["q2", "q3"]
        await turn.commit(Message.assistant("a2"))
        assert [text for _, text in await stored(memory)] == ["q1", "a1", "q2", "q3", "a2"]

    async def test_an_empty_thread_takes_all_of_it(self, memory: Memory) -> None:
        """History handed to a new thread, or to one created empty, is stored; system text is not."""
        await memory.resource("ana").threads.create("t")
        turn = await opened(
            memory, Message.system("s"), Message.user("q1"), Message.assistant("a1"), Message.user("q2")
        )
        await turn.commit(Message.assistant("a2"))
        assert [text for _, text in await stored(memory)] == ["q1", "a1", "q2", "a2"]

    async def test_the_stored_copy_stands(self, memory: Memory) -> None:
        """An edited copy of a stored message changes nothing."""
        await (await opened(memory, Message.user("q1", id="u1"))).commit(Message.assistant("a1", id="a1"))
        turn = await opened(memory, Message.user("edited", id="u1"), Message.user("q2"))
        assert [message.text for message in turn.input] == ["q2"]
        await turn.commit(Message.assistant("a2"))
        assert [text for _, text in await stored(memory)] == ["q1", "a1", "q2", "a2"]

    async def test_asking_again(self, memory: Memory) -> None:
        """A stored message sent again comes last in the prompt and gets another answer of its own."""
        await (await opened(memory, Message.user("q0"))).commit(Message.assistant("a0"))
        await (await opened(memory, Message.user("q1", id="u1"))).commit(Message.assistant("a1"))
        turn = await opened(memory, Message.user("q1", id="u1"))
        assert [message.text for message in (*turn.history, *turn.input)] == ["q0", "a0", "q1"]
        await turn.begin()
        await turn.commit(Message.assistant("a1 again"))
        assert [text for _, text in await stored(memory)] == ["q0", "a0", "q1", "a1", "a1 again"]

    async def test_same_text_is_a_new_message(self, memory: Memory) -> None:
        """Without an id, saying it twice is saying it twice."""
        for _ in range(2):
            await (await opened(memory, "hi")).commit(Message.assistant("hello"))
        assert [text for _, text in await stored(memory)] == ["hi", "hello"] * 2

    async def test_an_id_in_use_in_another_thread(self, memory: Memory) -> None:
        """Refused when the turn opens, before a model is asked; other owners' ids do not matter."""
        await memory.resource("ana").thread("other").save(Message.user("x", id="u1"))
        await memory.resource("bob").thread("t").save(Message.user("x", id="u2"))
        with pytest.raises(ConflictError, match="'u1' is in use in another of the owner's threads"):
            await opened(memory, Message.user("q", id="u1"))
        assert await memory.resource("ana").threads.get("t") is None
        await (await opened(memory, Message.user("q", id="u2"))).commit(Message.assistant("a"))
        turn = await opened(memory, Message.user("q0", id="u1"), Message.assistant("a0"), Message.user("q1"))
        assert [message.text for message in turn.input] == ["q1"], "a replay before an answer is not stored"
        with pytest.raises(ConflictError):
            await opened(memory, Message.user("q", id="u1"))
        turn = await memory.open_turn(
            resource="ana",
            thread="t",
            input=[Message.user("q", id="u1")],
            options={"read_only": True},
        )
        assert [message.text for message in turn.input] == ["q"], "what stores nothing may use any id"

    async def test_a_message_of_another_thread(self, memory: Memory) -> None:
        """Refused before anything is read."""
        [message] = await memory.resource("ana").thread("other").save("x")
        with pytest.raises(ValidationError, match="another thread"):
            await opened(memory, message)


class TestSaveUserFirst:
    async def test_the_question_and_finished_steps_survive(self, memory: Memory) -> None:
        """Before the commit the question, a running run and the steps so far are there already."""
        turn = await opened(memory, "hi", save_user_first=True)
        await turn.begin()
        assert await stored(memory) == [("user", "hi")]
        part = Message(role="assistant", id="a", parts=[StepPart(), TextPart("so far")], run_id=turn.run_id)
        await turn.checkpoint(part)
        assert await stored(memory) == [("user", "hi"), ("assistant", "so far")]
        assert (await memory.resource("ana").run(turn.run_id)).status == "running"  # type: ignore[union-attr]

        await turn.commit(part.replace(parts=[*part.parts, TextPart(", done")]))
        assert await stored(memory) == [("user", "hi"), ("assistant", "so far, done")]
        assert (await memory.resource("ana").run(turn.run_id)).status == "finished"  # type: ignore[union-attr]


class TestIdempotency:
    async def test_a_finished_run_is_found_again(self, memory: Memory) -> None:
        """The same `run_id` gives the stored answer, and nothing is stored twice."""

        async def turn() -> Turn:
            return await memory.open_turn(
                resource="ana", thread="t", input=[Message.user("hi")], run_id="payment-7"
            )

        first, racing = await turn(), await turn()
        assert first.finished is None
        await first.commit(Message.assistant("hello"))
        again = await turn()
        assert again.finished is not None
        assert [message.text for message in again.answer] == ["hi", "hello"]
        with pytest.raises(ConflictError, match="payment-7"):
            await racing.commit(Message.assistant("hello twice"))
        assert [text for _, text in await stored(memory)] == ["hi", "hello"]

    async def test_a_run_belongs_to_its_thread(self, memory: Memory) -> None:
        """The same `run_id` in another thread is a conflict; another owner's is unknown."""
        await (
            await memory.open_turn(resource="ana", thread="t", input=[Message.user("x")], run_id="r")
        ).commit(None)
        with pytest.raises(ConflictError):
            await memory.open_turn(resource="ana", thread="other", input=[], run_id="r")
        bob = await memory.open_turn(resource="bob", thread="other", input=[], run_id="r")
        assert bob.finished is None


async def test_cancelling_a_commit_leaves_a_whole_turn(memory: Memory) -> None:
    """Whatever the moment, the turn is stored whole or not at all."""
    for delay in range(6):
        turn = await memory.open_turn(resource="ana", thread=f"t{delay}", input=[Message.user("q")])
        task = asyncio.ensure_future(turn.commit(Message.assistant("a")))
        for _ in range(delay):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.01)
        page = await memory.resource("ana").thread(f"t{delay}").messages()
        assert [message.role for message in page] in ([], ["user", "assistant"])


async def test_a_clock_that_steps_back(tmp_path: object) -> None:
    """Order comes from the store; a thread never looks older than it was."""
    moments = [datetime(2026, 1, 1, tzinfo=UTC) - timedelta(days=i) for i in range(50)]
    async with Memory(f"sqlite:///{tmp_path}/m.db", clock=lambda: moments.pop(0)) as memory:
        for number in range(3):
            await (await opened(memory, f"q{number}")).commit(Message.assistant(f"a{number}"))
        assert [text for _, text in await stored(memory)] == ["q0", "a0", "q1", "a1", "q2", "a2"]
        thread = await memory.resource("ana").threads.get("t")
        assert thread is not None
        assert thread.updated_at >= thread.created_at


class TestOptions:
    def test_unknown_options_are_errors_with_a_hint(self) -> None:
        """Misplaced and foreign names are named, never ignored."""
        with pytest.raises(ConfigurationError, match="'lastMessages'; did you mean last_messages"):
            Memory("sqlite://", lastMessages=3)  # type: ignore[call-arg]
        with pytest.raises(ConfigurationError, match="unknown option 'options'"):
            Memory("sqlite://", options={"last_messages": 3})  # type: ignore[call-arg]

    @pytest.mark.parametrize(
        "options",
        [{"last_messages": -1}, {"last_messages": 2.5}, {"read_only": "yes"}, {"save_user_first": 1}],
    )
    def test_bad_values(self, options: dict[str, object]) -> None:
        """Values of the wrong kind are refused at construction."""
        with pytest.raises((ConfigurationError, ValidationError)):
            Memory("sqlite://", **options)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "url",
        ["chat.db", "sqlite:/chat.db", "sqlite://chat.db", "mysql://x", "sqlite:///a.db?journal=off",
         "sqlite:///a.db?durability=some", "sqlite:///a.db?busy_timeout=soon", "sqlite:///a.db?mode=rx",
         "sqlite:///a.db?driver=odbc", "sqlite://?mode=ro", "", "://"],
    )  # fmt: skip
    def test_bad_urls(self, url: str) -> None:
        """A storage URL that cannot be right is refused at construction, with an example."""
        with pytest.raises(ConfigurationError):
            Memory(url)

    def test_storage_must_be_a_url_or_store(self) -> None:
        """Anything else is refused."""
        with pytest.raises(ConfigurationError, match="URL or a Store"):
            Memory(None)  # type: ignore[arg-type]

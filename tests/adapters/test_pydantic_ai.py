"""The ways to run a Pydantic AI agent with this memory, and what goes wrong in them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent as ProviderAgent
from pydantic_ai import (
    BinaryContent,
    DeferredToolRequests,
    DeferredToolResults,
    ModelRetry,
    RunContext,
    ToolReturn,
)
from pydantic_ai import messages as pai
from pydantic_ai.exceptions import UserError

from threadmark import (
    ConfigurationError,
    ConflictError,
    Memory,
    Speaker,
    StoreError,
    ToolPart,
    ValidationError,
)
from threadmark.adapters.pydantic_ai import MemoryCapability

from .twins import Played, add, agent, messages, runs

pytestmark = pytest.mark.anyio


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with Memory(f"sqlite:///{tmp_path / 'memory.db'}") as opened:
        yield opened


async def texts(memory: Memory, thread: str = "t") -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in await messages(memory, thread)]


async def test_iter_and_streams(memory: Memory) -> None:
    """`run`, `iter`, `run_stream` and streamed nodes store the same; the answer is stored once."""
    played = Played(["One.", "Two.", "Three."])
    made = agent(memory, played)
    await made.run("a")
    async with made.iter("b") as run:
        async for _ in run:
            pass
    async with made.run_stream("c") as stream:
        text = await stream.get_output()
    assert text == "Three. "
    assert await texts(memory) == [
        ("user", "a"),
        ("assistant", "One."),
        ("user", "b"),
        ("assistant", "Two."),
        ("user", "c"),
        ("assistant", "Three. "),
    ]
    assert len(played.prompts[-1]) == 6  # four earlier messages, the new one, instructions


def test_run_sync(memory: Memory) -> None:
    """From synchronous code."""
    made = agent(memory, Played(["One.", "Two."]))
    loop = asyncio.new_event_loop()  # which Pydantic AI would make, and leave open
    asyncio.set_event_loop(loop)
    try:
        made.run_sync("a")
        made.run_sync("b")
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    with memory:
        page = memory.resource("ana").thread("t").messages_sync(per_page=None)
    assert [message.text for message in page.messages] == ["a", "One.", "b", "Two."]


async def test_result_messages_are_the_runs_own(memory: Memory) -> None:
    """A result holds what this run said; what memory put before it is not in it."""
    made = agent(memory, Played(["One.", "Two."]))
    await made.run("a")
    result = await made.run("b")
    assert len(result.all_messages()) == len(result.new_messages()) == 2
    assert result.new_messages()[0].parts[0].content == "b"  # type: ignore[union-attr]


async def test_ids_are_stable(memory: Memory) -> None:
    """A history that is given again, as JSON has kept it, adds nothing but what is new."""
    made = agent(memory, Played(["One.", "Two.", "Three."]))
    first = await made.run("a")
    ids = [message.id for message in await messages(memory)]
    assert [m.metadata["threadmark"]["message_id"] for m in first.all_messages()] == ids  # type: ignore[index]
    kept = pai.ModelMessagesTypeAdapter.validate_json(first.all_messages_json())
    second = await made.run("b", message_history=kept)
    await made.run("c", message_history=second.all_messages())
    assert [text for _, text in await texts(memory)] == ["a", "One.", "b", "Two.", "c", "Three."]
    assert [message.id for message in await messages(memory)][:2] == ids


async def test_a_history_in_a_new_thread(memory: Memory) -> None:
    """A conversation from elsewhere comes into memory with the first run that is given it."""
    history: list[pai.ModelMessage] = [
        pai.ModelRequest([pai.UserPromptPart("old question")]),
        pai.ModelResponse([pai.TextPart("old answer")]),
    ]
    played = Played(["New answer."])
    await agent(memory, played).run("new question", message_history=history)
    assert [text for _, text in await texts(memory)] == [
        "old question",
        "old answer",
        "new question",
        "New answer.",
    ]
    assert [item[0] for item in played.prompts[0]] == ["user", "answer", "user", "instructions"]


async def test_system_prompt(memory: Memory) -> None:
    """`system_prompt` goes first in every run, and is not stored."""
    played = Played(["One.", "Two."])
    made = agent(memory, played, system_prompt="Be kind.")
    await made.run("a")
    await made.run("b")
    assert [item[0] for item in played.prompts[1]] == ["system", "user", "answer", "user", "instructions"]
    assert [role for role, _ in await texts(memory)] == ["user", "assistant", "user", "assistant"]


class City(BaseModel):
    name: str


async def test_object_as_answer(memory: Memory) -> None:
    """An answer that came by a tool is stored as text; one that did not fit leaves no trace."""
    played = Played([{"final_result": {"nome": "Turku"}}, {"final_result": {"name": "Turku"}}, "ok"])
    result = await agent(memory, played, output_type=City).run("Which city?")
    assert result.output == City(name="Turku")
    (_, answer) = await messages(memory)
    assert answer.text == '{"name":"Turku"}'
    assert [part.type for part in answer.parts] == ["step", "text", "data"]
    await agent(memory, played).run("And?")
    assert played.prompts[-1][1] == ("answer", '{"name":"Turku"}')


async def test_rejected_answer(memory: Memory) -> None:
    """An answer that a validator refuses is asked for again, and is not in memory; it is paid for."""
    played = Played(["bad", "good"])
    made = agent(memory, played)

    @made.output_validator
    def check(text: str) -> str:
        if text == "bad":
            raise ModelRetry("no")
        return text

    await made.run("go")
    assert await texts(memory) == [("user", "go"), ("assistant", "good")]
    ((_, _, usage),) = await runs(memory)
    assert usage.requests == 2


async def test_cancelled(memory: Memory) -> None:
    """A cancelled run keeps what was finished, and its open call is closed."""
    started = asyncio.Event()

    async def wait() -> str:
        """Wait."""
        started.set()
        await asyncio.sleep(30)
        return ""

    made = agent(memory, Played([{"wait": {}}, "Hello."]), tools=[wait])
    task = asyncio.ensure_future(made.run("go"))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (_, answer) = await messages(memory)
    assert [part.state for part in answer.parts if isinstance(part, ToolPart)] == ["interrupted"]
    assert [status for status, _, _ in await runs(memory)] == ["aborted"]
    assert (await made.run("again")).output == "Hello."


async def test_stream_that_is_left(memory: Memory) -> None:
    """Leaving a stream with an error keeps the text so far, as a failed run."""
    made = agent(memory, Played(["one two three four"]))

    async def read() -> None:
        async with made.run_stream("go") as stream:
            async for _ in stream.stream_text(delta=True, debounce_by=None):
                raise KeyError("mine")

    with pytest.raises(KeyError):
        await read()
    found = await messages(memory)
    assert [message.role for message in found] == ["user", "assistant"]
    assert found[1].text.startswith("one")
    assert [part.type for part in found[1].parts] == ["step", "text", "error"]


async def test_a_tool_that_raises(memory: Memory) -> None:
    """Pydantic AI ends such a run; what was said is kept, and the next turn works."""

    def broken() -> str:
        """Break."""
        raise OSError("disk")

    made = agent(memory, Played([{"broken": {}}, "Hello."]), tools=[broken])
    with pytest.raises(OSError, match="disk"):
        await made.run("go")
    (_, answer) = await messages(memory)
    assert [part.type for part in answer.parts] == ["step", "tool", "error"]
    assert (await made.run("again")).output == "Hello."


async def test_what_a_tool_shows_is_not_the_users(memory: Memory) -> None:
    """What a tool shows the model goes in a user's voice; it is stored as the tool's, files and all."""

    def screen() -> ToolReturn:
        """Take a picture."""
        return ToolReturn("ok", content=["I am Bo.", BinaryContent(b"...", media_type="image/png")])

    made = agent(memory, Played([{"screen": {}}, "Seen.", "Yes."]), tools=[screen])
    await made.run("Look.")
    found = await messages(memory)
    assert [(m.role, m.speaker and m.speaker.role) for m in found] == [
        ("user", None),
        ("assistant", None),
        ("user", "tool"),
        ("assistant", None),
    ]
    assert found[2].speaker == Speaker(id="tool:screen", name="screen", role="tool")
    assert [part.type for part in found[2].parts] == ["text", "file"]
    first = await made.run("And?")
    assert first.output == "Yes."


async def test_a_history_with_what_a_tool_showed(memory: Memory) -> None:
    """Given again or taken over, it is one turn: its calls keep their outcomes, and nothing comes twice."""

    def screen() -> ToolReturn:
        """Take a picture."""
        return ToolReturn("ok", content="A picture.")

    made = agent(memory, Played([{"screen": {}}, "Seen.", "Yes.", "Yes."]), tools=[screen])
    first = await made.run("Look.")
    history = pai.ModelMessagesTypeAdapter.validate_json(first.all_messages_json())
    before = [message.id for message in await messages(memory)]
    await made.run("And?", message_history=history)
    assert [message.id for message in await messages(memory)][: len(before)] == before
    assert len(await messages(memory)) == len(before) + 2
    elsewhere = agent(memory, Played(["New."]), tools=[screen], where={"thread": "new"})
    for message in history:
        message.metadata = None
    await elsewhere.run("Here?", message_history=history)
    (call,) = [p for m in await messages(memory, "new") for p in m.parts if isinstance(p, ToolPart)]
    assert (call.state, call.output) == ("result", "ok")


async def test_deferred_calls(memory: Memory) -> None:
    """A run that ends with calls for others to make goes on in the same message."""

    played = Played([{"pay": {"amount": 5}}, "Paid.", "Bye."])
    made = agent(memory, played, output_type=[str, DeferredToolRequests])

    @made.tool_plain(requires_approval=True)
    def pay(amount: int) -> str:
        return f"paid {amount}"

    first = await made.run("Pay 5.")
    assert isinstance(first.output, DeferredToolRequests)
    (_, waiting) = await messages(memory)
    call = first.output.approvals[0].tool_call_id
    kept = pai.ModelMessagesTypeAdapter.validate_json(first.all_messages_json())
    second = await made.run(
        message_history=kept, deferred_tool_results=DeferredToolResults(approvals={call: True})
    )
    assert second.output == "Paid."
    (_, answer) = await messages(memory)
    assert answer.id == waiting.id
    assert [part.type for part in answer.parts] == ["step", "tool", "step", "text"]
    assert [part.output for part in answer.parts if isinstance(part, ToolPart)] == ["paid 5"]
    assert [item[0] for item in played.prompts[1]] == ["user", "call", "outcome", "instructions"]
    await made.run("Thanks.")
    assert [item[0] for item in played.prompts[2]] == [
        "user",
        "call",
        "outcome",
        "answer",
        "user",
        "instructions",
    ]


async def test_deferred_calls_that_nobody_makes(memory: Memory) -> None:
    """Talking on instead is possible: the call counts as interrupted."""
    played = Played([{"pay": {"amount": 5}}, "Never mind."])
    made = agent(memory, played, output_type=[str, DeferredToolRequests])

    @made.tool_plain(requires_approval=True)
    def pay(amount: int) -> str:
        return f"paid {amount}"

    await made.run("Pay 5.")
    assert (await made.run("No, wait.")).output == "Never mind."
    assert [item[0] for item in played.prompts[1]] == ["user", "call", "outcome", "user", "instructions"]


# -- whose memory ------------------------------------------------------------------------------------


@dataclass
class Deps:
    user: str | None
    chat: str | None


async def test_owner_from_deps(memory: Memory) -> None:
    """One agent serves everybody: the run's dependencies say whose memory it is, and they do not meet."""

    async def chat(ctx: RunContext[Deps]) -> str | None:
        return ctx.deps.chat

    where = {"resource": lambda ctx: ctx.deps.user, "thread": chat}
    played = Played(lambda messages: "ok")
    made = agent(memory, played, where=where, deps_type=Deps)
    await asyncio.gather(*[made.run(f"I am {name}.", deps=Deps(name, "t")) for name in ("ana", "bo")])
    await made.run("Who am I?", deps=Deps("bo", "t"))
    assert "ana" not in str(played.prompts[-1])
    assert "bo" in str(played.prompts[-1])
    assert await texts(memory) == [("user", "I am ana."), ("assistant", "ok")]


async def test_without_owner(memory: Memory) -> None:
    """Neither owner nor thread: the run goes without memory. One of them: an error before any call."""
    where = {"resource": lambda ctx: ctx.deps.user, "thread": lambda ctx: ctx.deps.chat}
    played = Played(["ok"])
    made = agent(memory, played, where=where, deps_type=Deps)
    assert (await made.run("hi", deps=Deps(None, None))).output == "ok"
    assert (await memory.resource("ana").threads.list()).total == 0
    with pytest.raises(ValidationError, match="together"):
        await made.run("hi", deps=Deps("ana", None))
    assert len(played.prompts) == 1


async def test_handle(memory: Memory) -> None:
    """The handle of a thread says whose it is, also for one run only."""
    made: ProviderAgent[None, str] = ProviderAgent(Played(["ok", "ok"]).model)
    for _ in range(2):
        await made.run("hi", capabilities=[MemoryCapability(memory.resource("ana").thread("t"))])
    assert len(await messages(memory)) == 4


def test_what_cannot_work(memory: Memory) -> None:
    """It is refused when the capability is made."""
    handle = memory.resource("ana").thread("t")
    with pytest.raises(ConfigurationError, match="handle"):
        MemoryCapability(handle, resource="bo")
    with pytest.raises(ConfigurationError, match="owner"):
        MemoryCapability(memory, resource="ana")
    with pytest.raises(ConfigurationError, match="Memory"):
        MemoryCapability("sqlite://", resource="ana", thread="t")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="lastMessages"):
        MemoryCapability(handle, lastMessages=3)  # type: ignore[call-arg]


async def test_one_memory_a_run(memory: Memory) -> None:
    """Two memories in one run are refused before any model call."""
    threads = memory.resource("ana")
    both = [MemoryCapability(threads.thread(name)) for name in ("a", "b")]

    async def run() -> None:
        made: ProviderAgent[None, str] = ProviderAgent(Played(["ok"]).model, capabilities=both)
        await made.run("hi")

    with pytest.raises(UserError, match="threadmark-memory"):
        await run()
    assert (await threads.threads.list()).total == 0


async def test_read_only(memory: Memory) -> None:
    """`read_only` shows memory and stores nothing."""
    await agent(memory, Played(["ok"])).run("remember")
    played = Played(["ok"])
    await agent(memory, played, where={"read_only": True}).run("hi")
    assert "remember" in str(played.prompts)
    assert len(await messages(memory)) == 2


async def test_a_store_that_fails(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn that could not be stored makes the run fail."""

    async def write_turn(*args: Any, **options: Any) -> Any:
        raise StoreError("disk full")

    monkeypatch.setattr(memory.store, "write_turn", write_turn)
    with pytest.raises(StoreError, match="disk full"):
        await agent(memory, Played(["ok"])).run("hi")


async def test_one_transaction(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn with tools is written once."""
    writes: list[Any] = []
    write = memory.store.write_turn

    async def write_turn(*args: Any, **options: Any) -> Any:
        writes.append(args)
        return await write(*args, **options)

    monkeypatch.setattr(memory.store, "write_turn", write_turn)
    await agent(memory, Played([{"add": {"a": 1, "b": 2}}, "3"]), tools=[add]).run("1 + 2")
    assert len(writes) == 1


async def test_a_run_id_that_was_used(memory: Memory) -> None:
    """A run that was made before is not made again under its id, where the release lets a caller give one."""
    played = Played(["One.", "Two."])
    made = agent(memory, played)
    again: Any = {"run_id": "r1"}
    if "run_id" not in inspect.signature(made.run).parameters:
        with pytest.raises(TypeError, match="run_id"):
            await made.run("a", **again)
        return
    await made.run("a", **again)
    with pytest.raises(ConflictError, match="r1"):
        await made.run("b", **again)
    assert len(played.prompts) == 1


async def test_titles(tmp_path: Path) -> None:
    """Work in the background is as ever: the agent's own model names the thread."""
    played = Played(lambda messages: "Cats" if "Give its title" in str(messages) else "Miau.")
    async with Memory(f"sqlite:///{tmp_path / 'title.db'}", generate_title=True) as memory:
        await agent(memory, played).run("Tell me of cats.")
        await memory.settled()
        thread = await memory.resource("ana").thread("t").get()
    assert thread is not None
    assert thread.title == "Cats"

"""A plain Pydantic AI agent with this memory sees and stores what Threadmark's own agent does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent as ProviderAgent
from pydantic_ai import (
    BinaryContent,
    ImageUrl,
)
from pydantic_ai.models.function import FunctionModel

from threadmark import Agent as OwnAgent
from threadmark import (
    Memory,
    ObservationalMemory,
    ObservationSettings,
    Speaker,
    ToolPart,
)
from threadmark.adapters.pydantic_ai import MemoryCapability
from threadmark.testing import ScriptedModel

from .twins import Played, Reply, Script, Twins, add, agent, messages, runs, stored

pytestmark = pytest.mark.anyio


def clock() -> Any:
    """Times that both memories share."""
    ticks = iter(range(100_000))
    return lambda: datetime(2026, 5, 1, tzinfo=UTC) + timedelta(seconds=next(ticks) // 1000)


OPTIONS: dict[str, Any] = {
    "history": {},
    "exact": {"last_messages": 2, "exact": True},
    "working memory": {"working_memory": True},
    "recall": {"semantic_recall": True, "embedder": None},
    "budget": {"max_context_tokens": 400},
    "first": {"save_user_first": True},
    "observations": {},
}


@pytest.fixture(params=OPTIONS)
async def twins(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Twins]:
    def made(name: str) -> Memory:
        options = dict(OPTIONS[request.param])
        if request.param == "observations":
            model = ScriptedModel(lambda request: "- (high fact) Ana likes blue. [m1]")
            options["observational_memory"] = ObservationalMemory(
                model=model, observation=ObservationSettings(message_tokens=40, buffer_tokens=False)
            )
        return Memory(f"sqlite:///{tmp_path / name}.db", clock=clock(), **options)

    async with made("ours") as ours, made("theirs") as theirs:
        yield Twins(ours, theirs, [add])


def same(mine: Played, other: Played) -> None:
    """Both models were told the same."""
    for ours, theirs in zip(mine.prompts, other.prompts, strict=True):
        for one, two in zip(ours, theirs, strict=True):
            assert one == two


async def test_conversation(twins: Twins) -> None:
    """Turn for turn both models are told the same, and both threads hold the same."""
    turns: list[tuple[str, Script]] = [
        ("My favourite colour is blue, and I am a baker in Turku.", ["Noted."]),
        ("What is 2 + 3?", [{"add": {"a": 2, "b": 3}}, "It is 5."]),
        ("Which colour do I like, as a baker?", ["Blue."]),
        ("And both at once?", [{"add": {"a": 1, "b": 1}}, {"add": {"a": 2, "b": 2}}, "Four."]),
    ]
    for prompt, script in turns:
        mine, other = await twins.say(prompt, script)
        same(mine, other)
        assert mine.tools == other.tools
        assert not callable(script)
        assert len(mine.prompts) == len(script)
    assert await stored(twins.ours) == await stored(twins.theirs)


@pytest.mark.parametrize("seed", range(15))
async def test_random_conversations(seed: int, tmp_path: Path) -> None:
    """Whatever the options and however its turns go, a conversation is the same for both."""
    chosen = random.Random(seed)
    options: dict[str, Any] = {
        "last_messages": chosen.choice([1, 3, 10, None]),
        "exact": chosen.random() < 0.3,
        "working_memory": chosen.random() < 0.5,
        "semantic_recall": chosen.random() < 0.4,
        "max_context_tokens": chosen.choice([None, None, 300]),
        "save_user_first": chosen.random() < 0.3,
    }
    words = ["blue", "Turku", "baker", "key", "clock", "dog", "<b>", "</turn>"]

    def turn() -> tuple[str, Script]:
        script: list[Reply] = []
        while chosen.random() < 0.4 and len(script) < 3:  # fewer than max_steps
            script.append({"add": {"a": chosen.randrange(9), "b": chosen.randrange(9)}})
        if options["working_memory"] and chosen.random() < 0.3:
            script.append({"update_working_memory": {"memory": f"- {chosen.choice(words)}"}})
        last = " ".join(chosen.choices(words, k=3))
        script.append(RuntimeError(last) if chosen.random() < 0.15 else last)
        return " ".join(chosen.choices(words, k=6)), script

    async with (
        Memory(f"sqlite:///{tmp_path / 'a.db'}", clock=clock(), **options) as ours,
        Memory(f"sqlite:///{tmp_path / 'b.db'}", clock=clock(), **options) as theirs,
    ):
        twins = Twins(ours, theirs, [add])
        for _ in range(8):
            prompt, script = turn()
            speaker = Speaker(id="ana", name="Ana") if chosen.random() < 0.3 else None
            thread = chosen.choice(["t", "t", "t2"])
            same(*await twins.say(prompt, script, thread=thread, speaker=speaker))
        for thread in ("t", "t2"):
            assert await stored(ours, thread) == await stored(theirs, thread)


async def test_both_in_one_thread(tmp_path: Path) -> None:
    """A thread goes back and forth between the two kinds of agent, and its prompts go on as they began."""
    async with Memory(f"sqlite:///{tmp_path / 'one.db'}", working_memory=True, clock=clock()) as memory:
        prompts = []
        for number in range(6):
            played = Played([f"Answer {number}."])
            if number % 2:
                own = OwnAgent("twin", model=played.model, memory=memory, instructions="Be brief.")
                await own.generate(f"Question {number}?", resource="ana", thread="t")
            else:
                await agent(memory, played, instructions="Be brief.").run(f"Question {number}?")
            prompts.append(played.prompts[0])
        assert len(await messages(memory)) == 12
    for before, after in pairwise(prompts):
        assert after[: len(before) - 1] == before[:-1]  # its last entry is the instructions
        assert after[-1] == before[-1]


async def test_another_thread(twins: Twins) -> None:
    """What an earlier conversation left is there in the next one, for both."""
    await twins.say("My dog is called Rex.", ["A good name."], thread="t1")
    mine, other = await twins.say("What is my dog called?", ["Rex."], thread="t2")
    same(mine, other)
    assert await stored(twins.ours, "t2") == await stored(twins.theirs, "t2")


async def test_speakers(twins: Twins) -> None:
    """Who is talking is stored in its column, and rendered for the model."""
    for name in ("Ana", "Bo<b>"):
        mine, other = await twins.say("Hi, it is me.", ["Hi."], speaker=Speaker(id=name[0], name=name))
        assert mine.prompts == other.prompts
    assert "<turn" in str(other.prompts)
    assert await stored(twins.ours) == await stored(twins.theirs)


async def test_files(twins: Twins) -> None:
    """Files and addresses survive, and go to the model again in the next turn."""
    prompt: list[Any] = [
        "What is this?",
        BinaryContent(b"\x89PNG....", media_type="image/png"),
        ImageUrl("https://example.com/a.png"),
    ]
    mine, other = await twins.say(prompt, ["A cat."])
    same(mine, other)
    assert "image/png" in str(other.prompts)
    mine, other = await twins.say("And now?", ["Still a cat."])
    same(mine, other)
    assert await stored(twins.ours) == await stored(twins.theirs)


async def test_a_model_that_fails(twins: Twins) -> None:
    """A failed run is stored as one: the question, what was finished, and the error."""
    await twins.say("Add.", [{"add": {"a": 1, "b": 2}}, RuntimeError("overloaded")])
    await twins.say("Hello?", [RuntimeError("overloaded")])
    mine, other = await twins.say("Again?", ["Yes."])
    assert mine.prompts == other.prompts
    assert await stored(twins.ours) == await stored(twins.theirs)
    ours, theirs = await runs(twins.ours), await runs(twins.theirs)
    assert ours == theirs
    assert [status for status, _, _ in theirs] == ["failed", "failed", "finished"]


async def test_a_run_that_is_cancelled(twins: Twins) -> None:
    """Cancelled in a tool or while the model answers, both keep the same."""
    started = asyncio.Event()

    async def wait() -> str:
        """Wait."""
        started.set()
        await asyncio.sleep(30)
        return ""

    async def slow(messages: Any, info: Any) -> Any:
        started.set()
        await asyncio.sleep(30)

    def models() -> tuple[Any, Any]:
        script: Script = [{"add": {"a": 1, "b": 2}}, {"add": {"a": 3, "b": 4}, "wait": {}}]
        return Played(script).model, FunctionModel(slow, model_name="played")

    for mine, other in zip(models(), models(), strict=True):
        own = OwnAgent("twin", model=mine, memory=twins.ours, tools=[add, wait])
        made: ProviderAgent[None, str] = ProviderAgent(
            other,
            tools=[add, wait],
            capabilities=[MemoryCapability(twins.theirs.resource("ana").thread("t"))],
        )
        for call in (own.generate("go", resource="ana", thread="t"), made.run("go")):
            started.clear()
            task = asyncio.ensure_future(call)
            await asyncio.wait_for(started.wait(), 10)
            await asyncio.sleep(0.05)  # the other tool of the step ends
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    assert await stored(twins.ours) == await stored(twins.theirs)
    ours, theirs = await runs(twins.ours), await runs(twins.theirs)
    assert ours == theirs
    assert [status for status, _, _ in theirs] == ["aborted", "aborted"]


async def test_working_memory_tool(tmp_path: Path) -> None:
    """The model can note something, and both see it in the next conversation."""
    async with (
        Memory(f"sqlite:///{tmp_path / 'a.db'}", working_memory=True, clock=clock()) as ours,
        Memory(f"sqlite:///{tmp_path / 'b.db'}", working_memory=True, clock=clock()) as theirs,
    ):
        twins = Twins(ours, theirs)
        noted = {"update_working_memory": {"memory": "# Ana\n- Likes blue."}}
        mine, other = await twins.say("I like blue.", [noted, "Noted."])
        assert mine.tools == other.tools
        assert mine.prompts == other.prompts
        mine, other = await twins.say("What do I like?", ["Blue."], thread="t2")
        assert mine.prompts == other.prompts
        assert "Likes blue" in str(other.prompts)
        assert await stored(ours) == await stored(theirs)
        found = await theirs.resource("ana").working_memory.get()
        assert found is not None


async def test_recall_tool(tmp_path: Path) -> None:
    """The model can search; what its tool quoted is not stored."""
    options: Any = {"semantic_recall": True}
    async with (
        Memory(f"sqlite:///{tmp_path / 'a.db'}", clock=clock(), **options) as ours,
        Memory(f"sqlite:///{tmp_path / 'b.db'}", clock=clock(), **options) as theirs,
    ):
        twins = Twins(ours, theirs)
        await twins.say("The cellar key hangs behind the clock.", ["Noted."], thread="old")
        _, other = await twins.say("Look.", [{"recall": {"query": "cellar key"}}, "Behind the clock."])
        assert "recall" in other.tools[0]
        assert "behind the clock" in str(other.prompts[-1])
        (call,) = [part for m in await messages(theirs) for part in m.parts if isinstance(part, ToolPart)]
        assert "behind the clock" not in str(call.output)

"""What roles keep up to date beside the notes: working memory, and values of the reflector."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import pytest
from pydantic import BaseModel

from threadmark import (
    Agent,
    ConfigurationError,
    Extractor,
    Memory,
    Message,
    ObservationalMemory,
    ObservationSettings,
    ReflectionSettings,
    Speaker,
    WorkingMemory,
)
from threadmark.models.base import ModelRequest
from threadmark.stores.sqlite import SQLiteStore
from threadmark.testing import ScriptedModel
from threadmark.testing._faults import FaultyStore

pytestmark = pytest.mark.anyio

BEN = Speaker(id="b1", name="Ben")


class Home(BaseModel):
    """What a working memory with a schema holds."""

    city: str = ""
    pets: list[str] = []


def keeping(
    *answers: str, storage: Any = "sqlite://", working: Any = True, **more: Any
) -> tuple[Memory, ScriptedModel]:
    """A memory whose observer keeps its working memory, and gives these answers."""
    model = ScriptedModel(list(answers))
    observation = ObservationSettings(manage_working_memory=True, **more)
    settings = ObservationalMemory(model=model, observation=observation, rest=0)
    return Memory(storage, working_memory=working, observational_memory=settings), model


def value(content: Any) -> str:
    return f"- (high fact) Ana moved. [m1]\nVALUE working-memory: {json.dumps(content)}"


async def observed(memory: Memory, text: str = "I moved to Oslo.", **fields: Any) -> Any:
    thread = memory.resource("ana").thread("t1")
    await thread.save([Message.user(text, **fields)])
    await thread.observations.update(force=True)
    return await memory.resource("ana").working_memory.version()


async def test_the_observer_keeps_a_text_up_to_date() -> None:
    """With `manage_working_memory`, the text that the observer writes is the next version, of its job."""
    memory, model = keeping(value("# Ana\n- City: Oslo\n"), value("# Ana\n- City: Oslo\n- Pet: cat\n"))
    first = await observed(memory)
    assert (first.version, first.content, first.changed_by) == (1, "# Ana\n- City: Oslo\n", "observer")
    jobs = await memory.resource("ana").thread("t1").observations.jobs()
    assert first.run_id == jobs[0].id
    second = await observed(memory, "I have a cat.")
    assert second.content == "# Ana\n- City: Oslo\n- Pet: cat\n"
    told = model.requests[-1].messages[0].text
    assert "The working memory so far:" in told
    assert "City: Oslo" in told


async def test_the_observer_patches_an_object() -> None:
    """With a schema, it gives the fields that change; the others stay."""
    memory, _ = keeping(value({"city": "Oslo"}), value({"pets": ["cat"]}), working=WorkingMemory(schema=Home))
    await observed(memory)
    await observed(memory, "I have a cat.")
    assert await memory.resource("ana").working_memory.get() == {"city": "Oslo", "pets": ["cat"]}


@pytest.mark.parametrize(
    "content", ["", 7, None, {"a": 1}, "x" * 200_000], ids=["empty", "number", "null", "object", "long"]
)
async def test_what_does_not_fit_leaves_it_as_it_was(content: Any) -> None:
    """A value that is no text, empties it, or is too long is not taken; the notes are."""
    memory, _ = keeping(value("- City: Oslo\n"), value(content))
    await observed(memory)
    version = await observed(memory, "And so on.")
    assert version.content == "- City: Oslo\n"
    page = await memory.resource("ana").observations.list(view="live")
    assert page.total == 2 or page.observations[0].count == 2


async def test_a_change_by_somebody_else_is_kept() -> None:
    """What was stored while the observer worked is merged with what it wrote."""
    memory, _ = keeping("", working=WorkingMemory(schema=Home))
    user = memory.resource("ana")

    async def meanwhile(request: ModelRequest) -> str:
        await user.working_memory.patch({"pets": ["dog"]})
        return value({"city": "Oslo"})

    settings = ObservationalMemory(
        model=ScriptedModel(meanwhile), observation=ObservationSettings(manage_working_memory=True)
    )
    both = Memory(memory.store, working_memory=WorkingMemory(schema=Home), observational_memory=settings)
    version = await observed(both)
    assert json.loads(version.content) == {"city": "Oslo", "pets": ["dog"]}
    assert version.version == 2


async def test_notes_and_working_memory_are_stored_together() -> None:
    """A commit that fails stores neither; tried again, both come once."""
    store = FaultyStore(SQLiteStore(None))
    memory, _ = keeping(value("- City: Oslo\n"), value("- City: Oslo\n"), storage=store)
    store.fail("commit_observations")
    user = memory.resource("ana")
    await user.thread("t1").save(["I moved."])
    await user.thread("t1").observations.update(force=True)
    assert await user.working_memory.version() is None
    assert (await user.observations.list(view="all")).total == 0
    await user.thread("t1").observations.update(force=True)
    stored = await user.working_memory.version()
    assert stored is not None
    assert stored.version == 1
    assert (await user.observations.list(view="all")).total == 1


async def test_it_is_forgotten_with_the_speaker() -> None:
    """A version that the observer made of a speaker's messages goes when the speaker is erased."""
    memory, _ = keeping(value("- City: Oslo\n"))
    await observed(memory, speaker=BEN)
    receipt = await memory.resource("ana").thread("t1").erase_speaker("b1")
    assert receipt.removed["working_memory"] == 1
    assert await memory.resource("ana").working_memory.version() is None


async def test_it_needs_a_working_memory_that_may_be_written() -> None:
    """Where there is none, or it is read-only, the option is an error."""
    settings = ObservationalMemory(observation=ObservationSettings(manage_working_memory=True))
    with pytest.raises(ConfigurationError, match="manage_working_memory needs"):
        Memory("sqlite://", observational_memory=settings)
    with pytest.raises(ConfigurationError, match="manage_working_memory needs"):
        Memory("sqlite://", working_memory=WorkingMemory(read_only=True), observational_memory=settings)
    with pytest.raises(ConfigurationError, match="reserved"):
        Extractor(name="Working memory", instructions="x")


async def test_it_works_in_a_turn() -> None:
    """Observing in the background keeps it, too, and the next prompt shows it."""
    memory, _ = keeping(
        *[value("- City: Oslo\n")] * 20,
        working=WorkingMemory(agent_managed=False),
        message_tokens=200,
        buffer_tokens=40,
    )
    seen: list[str] = []

    def answer(request: ModelRequest) -> str:
        seen.append("\n".join(message.text for message in request.messages))
        assert not request.tools
        return "I see. " * 20

    agent = Agent("helper", model=ScriptedModel(answer), memory=memory)
    for _ in range(3):
        await agent.generate("I moved to Oslo and bought many things. " * 5, resource="ana", thread="t1")
        await memory.settled()
    assert "City: Oslo" in seen[-1]


async def test_the_reflector_keeps_values() -> None:
    """`reflection.extract`: values of the condensed lines, with those so far; one that does not fit stays."""
    asked: list[str] = []
    calls = count(1)
    answers = iter(['VALUE mood: 3\nVALUE topics: ["kiln"]', "VALUE mood: none"])

    def role(request: ModelRequest) -> str:
        text = request.messages[0].text
        if "You condense" not in request.instructions:
            numbers = [f"m{n}" for n in range(1, 60) if f"m{n}" in text]
            told = "told of the kiln and of how hot it was " * 2
            return "\n".join(f"- (low fact) In call {next(calls)} {told}. [{label}]" for label in numbers)
        asked.append(request.instructions + text)
        ids = [word.strip(":") for word in text.split() if word.startswith("o") and word[1:2].isdigit()]
        return f"- (low fact) Told of the kiln. [{', '.join(ids[:20])}]\n{next(answers, '')}"

    settings = ObservationalMemory(
        model=ScriptedModel(role),
        observation=ObservationSettings(message_tokens=200, buffer_tokens=40, max_tokens_per_batch=200),
        reflection=ReflectionSettings(
            observation_tokens=400,
            extract=(
                Extractor(name="mood", instructions="From 1 to 5.", schema=int),
                Extractor(name="topics", instructions="What it is about.", schema=list[str]),
            ),
        ),
        deadline=30,
    )
    memory = Memory("sqlite://", observational_memory=settings)
    thread = memory.resource("ana").thread("t1")
    agent = Agent("helper", model=ScriptedModel(lambda request: "I see, that is hot. " * 8), memory=memory)
    for number in range(16):
        await agent.generate(f"{number}: {'the kiln is hot and ' * 8}", resource="ana", thread="t1")
        await memory.settled()
    assert len(asked) >= 2
    assert "mood: From 1 to 5." in asked[0]
    assert 'topics: ["kiln"]' in asked[1]
    assert (await thread.observations.status()).extracted == {"mood": 3, "topics": ["kiln"]}

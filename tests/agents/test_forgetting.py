"""What sub-agents keep for somebody is forgotten with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from threadmark import Agent, Memory
from threadmark.models.base import ModelRequest
from threadmark.testing import ScriptedModel, ToolCall

pytestmark = pytest.mark.anyio

SECRET = "quetzalcoatl"


def asks(key: str) -> ScriptedModel:
    """Delegates each question, and then answers."""

    def reply(request: ModelRequest) -> str | ToolCall:
        last = request.messages[-1]
        return "Done." if last.role == "assistant" else ToolCall(f"agent-{key}", {"prompt": f"find {SECRET}"})

    return ScriptedModel(reply)


async def team(memory: Memory) -> Agent:
    """A lead, its sub-agent, and one of that; each keeps what it was asked."""
    deep = Agent("deep", model=ScriptedModel(lambda request: "Found."))
    research = Agent("research", model=asks("deep"), agents=[deep])
    return Agent("lead", model=asks("research"), memory=memory, agents=[research])


async def test_erasing_an_owner_erases_what_sub_agents_keep(tmp_path: Path) -> None:
    """Two deep, with their working memory; whoever has a similar name by chance keeps what is theirs."""
    async with Memory(f"sqlite:///{tmp_path}/m.db", working_memory=True) as memory:
        await memory.resource("ana-research-team").thread("t").save("ours")
        await memory.resource("ana2").thread("t").save("mine")
        agent = await team(memory)
        await agent.generate("go", resource="ana", thread="t")
        await memory.resource("ana-research").working_memory.set(f"ana looks for {SECRET}")
        assert await memory.store.list_owners() == [
            "ana",
            "ana-research",
            "ana-research-deep",
            "ana-research-team",
            "ana2",
        ]
        receipt = await memory.resource("ana").erase()
        assert (receipt.resource_id, receipt.removed["threads"], receipt.removed["messages"]) == ("ana", 3, 6)
        assert receipt.scrubbed
        assert await memory.store.list_owners() == ["ana-research-team", "ana2"]
    for path in tmp_path.iterdir():  # noqa: ASYNC240 - a test
        assert SECRET.encode() not in path.read_bytes()


async def test_erasing_a_thread_erases_what_was_delegated_in_it(memory: Memory) -> None:
    agent = await team(memory)
    await agent.generate("go", resource="ana", thread="t")
    await agent.generate("go", resource="ana", thread="other")
    await memory.resource("ana").thread("t").erase()
    for owner in ("ana", "ana-research", "ana-research-deep"):
        (thread,) = await memory.resource(owner).threads.list()
        assert thread.id.startswith("other")


async def test_threads_of_their_own_stay_with_an_owner_of_such_a_name(memory: Memory) -> None:
    """Only what was delegated goes where somebody else's conversations are kept under that name, too."""
    await memory.resource("ana-research").thread("mine").save("ours")
    agent = await team(memory)
    await agent.generate("go", resource="ana", thread="t")
    await memory.resource("ana").erase()
    (thread,) = await memory.resource("ana-research").threads.list()
    assert thread.id == "mine"

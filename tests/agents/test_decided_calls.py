"""A decision that comes twice is told that it was made, wherever the run has gone on to since."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from threadmark import ApprovalError, Memory, NotFoundError, Tool, ToolPart, tool
from threadmark._types import Part
from threadmark.agents import Agent, AgentResult, PendingCall
from threadmark.models.base import ModelRequest
from threadmark.testing import ScriptedModel, ToolCall

pytestmark = pytest.mark.anyio

OWNER: Any = {"resource": "ana"}
DECIDED = "decided already"


def asked_for(request: ModelRequest) -> list[Any]:
    """The arguments of the calls so far."""
    parts = [part for message in request.messages for part in message.parts if isinstance(part, ToolPart)]
    return [value for part in parts if isinstance(part.args, dict) for value in part.args.values()]


def wants(*calls: tuple[str, str]) -> Any:
    """A model that makes each call (what, id) in a step of its own, and then answers."""

    def reply(request: ModelRequest) -> Any:
        if request.messages[-1].role == "user" and request.messages[-1].text == "Something else":
            return "Sure."
        for what, call_id in calls:
            if what not in asked_for(request):
                return ToolCall("shred", {"what": what}, id=call_id)
        return "Done."

    return ScriptedModel(reply)


def shredder(made: list[str]) -> Tool:
    @tool(requires_approval=True)
    def shred(what: str) -> str:
        made.append(what)
        return f"shred {what}"

    return shred


def make(memory: Memory, made: list[str], *calls: tuple[str, str]) -> Agent:
    return Agent("a", model=wants(*calls), memory=memory, tools=[shredder(made)])


def lead_of(memory: Memory, made: list[str], *calls: tuple[str, str], then: Any = "Done.") -> Agent:
    """A lead whose sub-agent makes the calls, and which then says or wants `then`."""

    def reply(request: ModelRequest) -> Any:
        if request.messages[-1].role == "user" and request.messages[-1].text == "Something else":
            return "Sure."
        if "Tidy up" not in asked_for(request):
            return ToolCall("agent-files", {"prompt": "Tidy up"}, id="d")
        return then if "z" not in asked_for(request) else "Done."

    files = Agent("files", model=wants(*calls), tools=[shredder(made)])
    return Agent("lead", model=ScriptedModel(reply), memory=memory, agents=[files], tools=[shredder(made)])


async def decide(agent: Agent, how: str, run_id: str, call: str | PendingCall) -> AgentResult:
    return await (agent.approve if how == "approve" else agent.decline)(run_id, call, **OWNER)


@pytest.mark.parametrize("second", ["approve", "decline"])
@pytest.mark.parametrize("restarted", [False, True])
async def test_a_run_that_went_on_in_a_new_message(tmp_path: Path, second: str, restarted: bool) -> None:
    """A call that an earlier message of the run holds is decided already, by its id and as it was shown."""
    made: list[str] = []
    calls = (("a", "first"), ("b", "second"))
    async with Memory(f"sqlite:///{tmp_path / 'm.db'}") as memory:
        agent = make(memory, made, *calls)
        paused = await agent.generate("go", **OWNER, thread="t")
        await agent.generate("Something else", **OWNER, thread="t")
        again = await agent.approve(paused.run_id, paused.pending[0], **OWNER)
        assert (again.finish_reason, again.pending[0].tool_call_id) == ("suspended", "second")
        assert again.message is not None
        assert paused.message is not None
        assert again.message.id != paused.message.id
    async with Memory(f"sqlite:///{tmp_path / 'm.db'}") as memory:
        agent = make(memory, made, *calls) if restarted else agent
        options = {"memory": memory}
        for call in ("first", paused.pending[0]):
            with pytest.raises(ApprovalError, match=f"{DECIDED}: approved"):
                await getattr(agent, second)(paused.run_id, call, **OWNER, **options)
        with pytest.raises(NotFoundError, match="no pending call 'nobody'"):
            await getattr(agent, second)(paused.run_id, "nobody", **OWNER, **options)
        result = await agent.approve(paused.run_id, again.pending[0], **OWNER, memory=memory)
    assert (result.text, made) == ("Done.", ["a", "b"])


async def test_ids_that_come_again_in_a_new_message(memory: Memory) -> None:
    """Where a provider counts ids anew, a second click on the earlier call does not hit the later one."""
    made: list[str] = []
    agent = make(memory, made, ("a", "call_0"), ("b", "call_0"))
    paused = await agent.generate("go", **OWNER, thread="t")
    await agent.generate("Something else", **OWNER, thread="t")
    again = await agent.approve(paused.run_id, "call_0", **OWNER)
    assert [call.args for call in again.pending] == [{"what": "b"}]
    for how in ("approve", "decline"):
        with pytest.raises(ApprovalError, match="decide with the PendingCall"):
            await decide(agent, how, paused.run_id, "call_0")
        with pytest.raises(ApprovalError, match="not those that were shown"):
            await decide(agent, how, paused.run_id, paused.pending[0])
    result = await agent.approve(paused.run_id, again.pending[0], **OWNER)
    assert (result.text, made) == ("Done.", ["a", "b"])


@pytest.mark.parametrize("first", ["approve", "decline"])
@pytest.mark.parametrize("second", ["approve", "decline"])
@pytest.mark.parametrize("talked", [False, True])
async def test_a_sub_agents_call_after_the_lead_went_on(
    memory: Memory, first: str, second: str, talked: bool
) -> None:
    """A sub-agent's call whose run is over is decided already, while the lead waits for something else."""
    made: list[str] = []
    agent = lead_of(memory, made, ("a", "inner"), then=ToolCall("shred", {"what": "z"}, id="own"))
    paused = await agent.generate("go", **OWNER, thread="t")
    if talked:
        await agent.generate("Something else", **OWNER, thread="t")
    again = await decide(agent, first, paused.run_id, paused.pending[0])
    assert [call.tool_call_id for call in again.pending] == ["own"]
    for call in ("inner", paused.pending[0]):
        with pytest.raises(ApprovalError, match=f"{DECIDED}: {first}d"):
            await decide(agent, second, paused.run_id, call)
    assert (await decide(agent, "approve", paused.run_id, "own")).text == "Done."
    assert made == (["a", "z"] if first == "approve" else ["z"])


async def test_a_sub_agent_that_waits_again(memory: Memory) -> None:
    """A sub-agent's earlier call is decided already, while the sub-agent waits for its next one."""
    made: list[str] = []
    agent = lead_of(memory, made, ("a", "inner"), ("b", "inner 2"))
    paused = await agent.generate("go", **OWNER, thread="t")
    again = await agent.approve(paused.run_id, paused.pending[0], **OWNER)
    assert [call.tool_call_id for call in again.pending] == ["inner 2"]
    for how in ("approve", "decline"):
        for call in ("inner", paused.pending[0]):
            with pytest.raises(ApprovalError, match=f"{DECIDED}: approved"):
                await decide(agent, how, paused.run_id, call)
    assert (await agent.approve(paused.run_id, "inner 2", **OWNER)).text == "Done."
    assert made == ["a", "b"]


async def test_a_message_that_was_changed_leads_to_no_other_owner(memory: Memory) -> None:
    """A delegating call that somebody rewrote does not tell what another owner's sub-agent decided."""
    made: list[str] = []
    agent = lead_of(memory, made, ("a", "inner"), then=ToolCall("shred", {"what": "z"}, id="own"))
    other = await agent.generate("go", resource="bo", thread="t")
    await agent.approve(other.run_id, other.pending[0], resource="bo")
    paused = await agent.generate("go", **OWNER, thread="t")
    again = await agent.approve(paused.run_id, paused.pending[0], **OWNER)
    theirs = await memory.resource("bo").thread("t").messages()
    stolen = next(part for m in theirs for part in m.parts if isinstance(part, ToolPart))
    message = again.message
    assert message is not None
    parts: list[Part] = [
        dataclasses.replace(part, pause=stolen.pause)
        if isinstance(part, ToolPart) and part.tool_call_id == "d"
        else part
        for part in message.parts
    ]
    await memory.resource("ana").thread("t").update_message(message.id, parts=parts)
    with pytest.raises(NotFoundError, match="no pending call 'inner'"):
        await agent.approve(paused.run_id, "inner", **OWNER)

"""What child processes do with runs that wait: pause, approve, execute and answer until they are killed."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import apsw  # noqa: F401 - loaded before the fork, so that no child has to
import psycopg  # noqa: F401 - loaded before the fork, too
import pydantic  # noqa: F401 - loaded before the fork, too

from threadmark import ConflictError, Memory, ToolContext, tool
from threadmark.agents import Agent, AgentResult
from threadmark.models.base import ModelRequest
from threadmark.testing import ScriptedModel, ToolCall

OWNER = {"resource": "ann"}


def reply(request: ModelRequest) -> Any:
    """One destructive call for each question, then an answer."""
    last = request.messages[-1]
    if last.role == "user" and not last.text.startswith("<resumed>"):
        return ToolCall("destroy", {"what": last.text}, id=f"call {last.text}")
    return "Done."


def make(memory: Memory, log: str, delay: float = 0.0) -> Agent:
    """An agent whose tool tells each execution in `log` with one write(2), which outlives the process."""

    @tool(requires_approval=True)
    async def destroy(context: ToolContext, what: str) -> str:
        await asyncio.sleep(delay)
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, json.dumps([context.run_id, what]).encode() + b"\n")
        os.close(file)
        await asyncio.sleep(delay)
        return f"destroyed {what}"

    return Agent("a", model=ScriptedModel(reply, delay=delay), memory=memory, tools=[destroy])


def make_lead(memory: Memory, log: str, delay: float = 0.0) -> Agent:
    """An agent that has the one of `make` do it, as a sub-agent."""

    def delegate(request: ModelRequest) -> Any:
        last = request.messages[-1]
        if last.role == "user" and not last.text.startswith("<resumed>"):
            return ToolCall("agent-a", {"prompt": last.text}, id=f"delegate {last.text}")
        return "Done."

    model = ScriptedModel(delegate, delay=delay)
    return Agent("lead", model=model, memory=memory, agents=[make(memory, log, delay)])


async def _pause_and_approve(agent: Agent, name: str, threads: int | None) -> None:
    """Question after question, each paused, approved and answered, in so many threads or in one for each."""
    n = 0
    while True:
        n += 1
        what = f"{name}.{n}"
        thread = what if threads is None else f"t{n % threads}"
        paused = await agent.generate(what, resource="ann", thread=thread, run_id=what)
        result = await agent.approve(paused.run_id, paused.pending[0], resource="ann")
        assert result.text == "Done.", result


def pause_and_approve(url: str, log: str, name: str) -> None:
    """Ask, pause, approve and answer until killed."""
    asyncio.run(_pause_and_approve(make(Memory(url), log, 0.001), name, 3))


def pause_and_approve_below(url: str, log: str, name: str) -> None:
    """The same with a sub-agent, whose call is approved at the lead."""
    asyncio.run(_pause_and_approve(make_lead(Memory(url), log, 0.001), name, None))


def approve_all(url: str, log: str, told: str, tasks: int, rounds: int, process: int) -> None:
    """With `tasks` at once, try to approve each of the runs "run 0", "run 1", ... as they appear."""

    async def work() -> None:
        memory = Memory(url)
        agent = make(memory, log)

        async def one(n: int) -> int:
            try:
                result: AgentResult = await agent.approve(f"run {n}", f"call {n}", resource="ann")
            except ConflictError:
                return 0
            assert result.text == "Done.", result
            return 1

        won = 0
        for n in range(rounds):
            won += sum(await asyncio.gather(*[one(n) for _ in range(tasks)]))
        file = os.open(told, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{process} {won}\n".encode())
        os.close(file)
        await memory.aclose()

    asyncio.run(work())


make(Memory("sqlite://"), "")  # loads what an agent needs before the fork; opens nothing

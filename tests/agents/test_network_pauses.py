"""Networks that wait, and how they are gone on with: what was done is known, and nothing is done twice."""

from typing import Any

import pytest
from pydantic import BaseModel

from threadmark import Agent, ApprovalError, ConfigurationError, Memory, ToolContext, ValidationError, tool
from threadmark.agents import ModelCheck
from threadmark.agents.network import CheckInput, CheckResult
from threadmark.agents.output import Output
from threadmark.testing import ScriptedModel, ToolCall

from .networks import done, network_of, route, run, shape

pytestmark = pytest.mark.anyio


class Files:
    """A tool that needs approval, and what it did."""

    def __init__(self) -> None:
        self.deleted: list[str] = []

        @tool(requires_approval=True)
        async def delete(path: str) -> str:
            """Delete a file."""
            self.deleted.append(path)
            return f"{path} is gone"

        self.tool = delete


async def approved(agent: Agent, run_id: str, **options: Any) -> tuple[Any, list[Any]]:
    async with agent.approve_network_tool_call(run_id=run_id, resource="ana", **options) as stream:
        events = [event async for event in stream]
    return await stream.result(), events


async def test_talking_on_while_it_waits_does_not_have_the_work_done_again() -> None:
    """The router that goes on knows what was done, and for which task."""
    files = Files()
    agent, model = network_of(
        route("delete", {"path": "a"}),
        route("none", "I am well.", "none"),
        done("Deleted."),
        tools=[files.tool],
    )
    first, _ = await run(agent, "Delete a")
    assert (await run(agent, "How are you?"))[0].text == "I am well."
    result, events = await approved(agent, first.run_id)
    assert (result.text, result.is_complete, files.deleted) == ("Deleted.", True, ["a"])
    assert "routing-agent-start" not in shape(events)
    assert [step.output for step in result.steps] == ["a is gone"]
    *_, work, task = [message.text for message in model.requests[-1].messages]
    assert "a is gone" in work
    assert "<task>\nDelete a\n</task>" in task


async def test_a_paused_network_keeps_its_options() -> None:
    class Sum(BaseModel):
        total: int

    files = Files()
    replies = [route("delete", {"path": "a"}), done(None, complete=False), route("none", "ok", "none"), "x"]
    agent, model = network_of(*replies, tools=[files.tool])
    output = Output(Sum, on_invalid="fallback", fallback=Sum(total=-1), retries=0)
    first, _ = await run(agent, instructions="Be careful.", output=output)
    result, _ = await approved(agent, first.run_id)
    assert "Be careful." in model.requests[2].instructions
    assert result.object == {"total": -1}
    agent, _ = network_of(
        route("delete", {"path": "a"}), done("x"), '{"total": 3}', tools=[files.tool], output=Sum
    )
    first, _ = await run(agent)
    assert (await approved(agent, first.run_id))[0].object == Sum(total=3)


async def test_functions_that_judge_are_never_left_out() -> None:
    """Without them the run still waits; a model does not take their place."""
    files = Files()

    def never(given: CheckInput) -> CheckResult:
        return CheckResult(passed=False, reason="never")

    agent, model = network_of(route("delete", {"path": "a"}), tools=[files.tool])
    first, _ = await run(agent, checks=[never], max_steps=1)
    with pytest.raises(ConfigurationError, match=r"judged by functions \(never\).*give checks="):
        await approved(agent, first.run_id)
    assert files.deleted == []
    result, _ = await approved(agent, first.run_id, checks=[never])
    assert (result.is_complete, files.deleted, len(model.requests)) == (False, ["a"], 1)


async def test_a_networks_run_is_gone_on_with_as_a_network_and_another_is_not() -> None:
    files = Files()
    agent, model = network_of(
        route("delete", {"path": "a"}),
        ToolCall("delete", {"path": "b"}),
        done("Deleted."),
        tools=[files.tool],
    )
    routed, _ = await run(agent)
    asked = await agent.generate("Delete b", resource="ana", thread="other")
    with pytest.raises(ConfigurationError, match="is of a network"):
        await agent.approve(routed.run_id, routed.pending[0], resource="ana")
    with pytest.raises(ConfigurationError, match="is not of a network"):
        await approved(agent, asked.run_id)
    assert files.deleted == []
    assert (await approved(agent, routed.run_id))[0].text == "Deleted."
    assert len(model.requests) == 3


async def test_a_users_message_answers_what_a_network_waits_for() -> None:
    """The same run goes on; a message that answers nothing is a turn of its own."""

    @tool(resume_schema=int)
    async def ask(context: ToolContext) -> int:
        """Ask a person for a number."""
        if context.resume_data is None:
            context.suspend("Which number?")
        return int(context.resume_data)

    agent, model = network_of(
        route("ask"),
        "That is no answer.",
        route("none", "Hello.", "none"),
        ToolCall("answer_1", {"data": 4}),
        done("It was 4."),
        tools=[ask],
    )
    first, _ = await run(agent)
    other, _ = await run(agent, "Hello", auto_resume=True)
    assert (other.text, other.run_id != first.run_id) == ("Hello.", True)
    result, events = await run(agent, "Four.", auto_resume=True)
    assert (result.run_id, result.status, result.text) == (first.run_id, "finished", "It was 4.")
    assert events[-1].payload["is_complete"] is True
    assert [event.run_id for event in events if event.run_id != first.run_id] == []
    # The whole conversation is what the answer is looked for in, not the last message alone.
    assert [message.text for message in model.requests[3].messages][-3:] == ["Hello", "Hello.", "Four."]
    assert not (await agent.runs.suspended(resource="ana")).runs


async def test_without_a_call_id_exactly_one_call_is_meant() -> None:
    """Of several none is approved, and an answer is no approval."""
    files = Files()
    calls = [ToolCall("delete", {"path": path}) for path in ("a", "b")]
    worker = Agent("worker", model=ScriptedModel([calls, "Both are gone."]), tools=[files.tool])
    model = ScriptedModel([route("worker", "Delete both", "agent"), done("Deleted.")])
    agent = Agent("router", model=model, memory=Memory("sqlite://"), agents=[worker])
    first, _ = await run(agent)
    assert len(first.pending) == 2
    with pytest.raises(ValidationError, match="several calls wait"):
        await approved(agent, first.run_id)
    assert files.deleted == []
    ids = [call.tool_call_id for call in first.pending]
    async with agent.approve_network_tool_call(ids, run_id=first.run_id, resource="ana") as stream:
        pass
    assert (await stream.result()).text == "Deleted."
    assert sorted(files.deleted) == ["a", "b"]
    with pytest.raises(ApprovalError):
        await approved(agent, first.run_id)


async def test_the_agents_own_checks_are_its_networks_and_what_they_use_is_counted() -> None:
    """What does not pass them is not complete, also after a pause."""
    judge = ScriptedModel([done(None, complete=False, why="too small"), done(None)])
    files = Files()
    replies = [route("add", {"a": 1, "b": 1}), route("add", {"a": 2, "b": 3})]
    agent, model = network_of(*replies, completion=[ModelCheck(judge)])
    result, events = await run(agent)
    assert (result.text, result.is_complete) == ("5", True)
    assert "too small" in model.requests[1].messages[-1].text
    assert result.usage.requests == len(model.requests) + len(judge.requests) == 4
    assert "completion" not in shape(events)

    def never(given: CheckInput) -> bool:
        return False

    agent, _ = network_of(route("delete", {"path": "a"}), tools=[files.tool], completion=[never])
    first, _ = await run(agent, max_steps=1)
    result, _ = await approved(agent, first.run_id)
    assert (result.status, result.is_complete, files.deleted) == ("finished", False, ["a"])

"""Hooks before a step and around a tool, and outputs that a model is shown otherwise than they are stored."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from threadmark import (
    Agent,
    ConfigurationError,
    Hooks,
    Memory,
    SkipTool,
    StepChanges,
    Tool,
    ToolContext,
    ToolPart,
    tool,
)
from threadmark.agents import StepContext, ToolEnd
from threadmark.processors import Processor
from threadmark.testing import ScriptedModel, ToolCall

pytestmark = pytest.mark.anyio


def lookup(query: str) -> str:
    """Look something up."""
    return f"found {query}"


def other() -> str:
    """Do something else."""
    return "other"


def twice() -> ScriptedModel:
    return ScriptedModel([ToolCall("lookup", {"query": "x"}), "Done."])


# -- before a step -----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_step_is_prepared_and_the_next_starts_from_the_originals(is_async: bool) -> None:
    """Model, tools, tool choice, instructions and settings of one step; the next has the call's own again."""
    first, usual = (
        ScriptedModel([ToolCall("lookup", {"query": "x"})], name="s:first"),
        ScriptedModel(["Done."]),
    )
    seen: list[StepContext] = []

    def prepare(step: StepContext) -> StepChanges | None:
        seen.append(step)
        if step.step > 1:
            return None
        return StepChanges(
            model=first, tools=["lookup"], tool_choice=["lookup"], instructions="Now.", settings={"top_p": 1}
        )

    async def prepare_async(step: StepContext) -> StepChanges | None:
        return prepare(step)

    agent = Agent(
        "a",
        instructions="Always.",
        model=usual,
        tools=[lookup, other],
        settings={"temperature": 0.5},
        hooks=Hooks(prepare_step=prepare_async if is_async else prepare),
    )
    events = []
    async with agent.stream("go") as stream:
        events = [event async for event in stream]
    result = await stream.result()
    one, two = first.requests[0], usual.requests[0]
    assert ([item.name for item in one.tools], one.instructions) == (["lookup"], "Now.")
    assert one.settings == {"temperature": 0.5, "top_p": 1, "tool_choice": ["lookup"]}
    assert ([item.name for item in two.tools], two.instructions) == (["lookup", "other"], "Always.")
    assert two.settings == {"temperature": 0.5}
    assert [event.model for event in events if event.type == "step-start"] == ["s:first", "scripted:model"]
    assert [step.model for step in result.steps] == ["first", "model"]
    assert [(item.step, item.model, item.tools) for item in seen] == [
        (1, "scripted:model", ("lookup", "other")),
        (2, "scripted:model", ("lookup", "other")),
    ]
    assert seen[1].usage.requests == 1
    assert [message.role for message in seen[1].messages] == ["user", "assistant"]


async def test_a_tool_that_a_step_does_not_offer_cannot_be_called() -> None:
    """A model that calls it all the same is told that there is none."""
    agent = Agent(
        "a",
        model=twice(),
        tools=[lookup, other],
        hooks=Hooks(prepare_step=lambda step: StepChanges(tools=["other"])),
    )
    [call] = (await agent.generate("go")).tool_calls
    assert call.state == "error"
    assert "Unknown tool 'lookup'. Available tools: other." in (call.error or "")


async def test_processors_see_the_prepared_step() -> None:
    """They have the last word: what they see is what would be sent, and the model's name is that one's."""
    seen: list[Any] = []

    class Look(Processor):
        def process_input_step(self, request: Any, ctx: Any) -> None:
            seen.append((ctx.model, request.instructions, [item.name for item in request.tools]))

    agent = Agent(
        "a",
        model=ScriptedModel(["x"]),
        tools=[lookup, other],
        input_processors=[Look()],
        hooks=Hooks(
            prepare_step=lambda step: StepChanges(
                model=ScriptedModel(["y"], name="s:chosen"), tools=["other"], instructions="I"
            )
        ),
    )
    assert (await agent.generate("go")).text == "y"
    assert seen == [("s:chosen", "I", ["other"])]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tools": ["lookup"]}, "not StepChanges"),
        (StepChanges(tools=["nope"]), "tools that there are not: \\['nope'\\]"),
        (StepChanges(tools="lookup"), "sequence of names"),
        (StepChanges(model="nonsense"), "not a model name"),
    ],
)
async def test_a_step_that_cannot_be(changes: Any, message: str) -> None:
    """Fails the run before the model is asked, and nothing is stored."""
    async with Memory("sqlite://") as memory:
        model = ScriptedModel(["x"])
        agent = Agent(
            "a", model=model, tools=[lookup], memory=memory, hooks=Hooks(prepare_step=lambda step: changes)
        )
        with pytest.raises(ConfigurationError, match=message):
            await agent.generate("go", resource="ana", thread="t")
        assert model.requests == []
        assert await memory.resource("ana").threads.get("t") is None


async def test_a_hook_that_raises_in_a_later_step() -> None:
    """Fails the run; what was finished is stored."""

    def prepare(step: StepContext) -> None:
        if step.step == 2:
            raise RuntimeError("no more")

    async with Memory("sqlite://") as memory:
        agent = Agent("a", model=twice(), tools=[lookup], memory=memory, hooks=Hooks(prepare_step=prepare))
        with pytest.raises(RuntimeError, match="no more"):
            await agent.generate("go", resource="ana", thread="t")
        page = await memory.resource("ana").thread("t").messages()
        assert [message.role for message in page] == ["user", "assistant"]


# -- around a tool -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["generate", "stream"])
async def test_a_tool_is_skipped_and_the_after_hook_says_so(mode: str) -> None:
    """The output that was given instead is stored, told and shown; the tool's body does not run."""
    ran: list[str] = []
    ends: list[ToolEnd] = []

    def search(query: str) -> str:
        """Search."""
        ran.append(query)
        return query

    def before(context: ToolContext, args: dict[str, Any]) -> SkipTool | None:
        assert context.tool_name == "search"
        return SkipTool({"cached": args["query"]}) if args["query"] == "old" else None

    async def after(context: ToolContext, end: ToolEnd) -> None:
        ends.append(end)

    model = ScriptedModel([[ToolCall("search", {"query": q}) for q in ("old", "new")], "Done."])
    agent = Agent("a", model=model, tools=[search], hooks=Hooks(before_tool=before, after_tool=after))
    if mode == "generate":
        result = await agent.generate("go")
    else:
        async with agent.stream("go") as stream:
            told = [event.result async for event in stream if event.type == "tool-result"]
        result = await stream.result()
        assert told == [{"cached": "old"}, "new"]
    assert ran == ["new"]
    assert [call.output for call in result.tool_calls] == [{"cached": "old"}, "new"]
    assert sorted((end.skipped, str(end.part.output)) for end in ends) == [
        (False, "new"),
        (True, "{'cached': 'old'}"),
    ]
    assert all(end.seconds >= 0 for end in ends)
    shown = [part.output for part in model.requests[1].messages[-1].parts if isinstance(part, ToolPart)]
    assert shown == [{"cached": "old"}, "new"]


@pytest.mark.parametrize("made", [RuntimeError("not today"), {"wrong": 1}], ids=["raises", "wrong type"])
async def test_a_before_hook_that_fails_stops_the_tool(made: Any) -> None:
    """The call is an error that the model is told; the body does not run, and the after hook is told."""
    ran: list[str] = []
    ends: list[ToolEnd] = []

    def act() -> None:
        """Act."""
        ran.append("ran")

    def before(context: ToolContext, args: dict[str, Any]) -> Any:
        if isinstance(made, Exception):
            raise made
        return made

    agent = Agent(
        "a",
        model=ScriptedModel([ToolCall("act"), "Sorry."]),
        tools=[act],
        hooks=Hooks(before_tool=before, after_tool=lambda context, end: ends.append(end)),
    )
    result = await agent.generate("go")
    [call] = result.tool_calls
    assert (call.state, ran, result.text) == ("error", [], "Sorry.")
    assert ("not today" if isinstance(made, Exception) else "not SkipTool") in (call.error or "")
    assert [(end.skipped, end.part.state) for end in ends] == [(True, "error")]


async def test_an_after_hook_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The tool has had its effect; its outcome stands. Failures of tools are told to the hook as well."""
    ends: list[ToolEnd] = []

    def broken() -> None:
        """Break."""
        raise ValueError("broken")

    def after(context: ToolContext, end: ToolEnd) -> None:
        ends.append(end)
        raise RuntimeError("audit is down")

    agent = Agent(
        "a",
        model=ScriptedModel([[ToolCall("other"), ToolCall("broken")], "Done."]),
        tools=[other, broken],
        hooks=Hooks(after_tool=after),
    )
    with caplog.at_level(logging.ERROR, "threadmark.agents"):
        result = await agent.generate("go")
    assert [call.state for call in result.tool_calls] == ["result", "error"]
    assert sorted(end.part.state for end in ends) == ["error", "result"]
    assert [record.name for record in caplog.records] == ["threadmark.agents"] * 2
    assert "audit is down" in caplog.text


async def test_hooks_of_a_call_and_memorys_own_tool() -> None:
    """A call's hooks take the place of the agent's; they see memory's tool as any other."""
    seen: list[str] = []

    def before(context: ToolContext, args: dict[str, Any]) -> None:
        assert threading.current_thread() is not threading.main_thread()
        seen.append(context.tool_name)
        args.clear()  # a copy

    async with Memory("sqlite://", working_memory=True) as memory:
        model = ScriptedModel([ToolCall("update_working_memory", {"memory": "# Ana"}), "Noted."])
        agent = Agent("a", model=model, memory=memory, hooks=Hooks(before_tool=lambda c, a: SkipTool("no")))
        await agent.generate("go", resource="ana", thread="t", hooks=Hooks(before_tool=before))
        assert seen == ["update_working_memory"]
        assert await memory.resource("ana").working_memory.get() == "# Ana"


async def test_a_hook_that_hangs_is_ended_by_the_timeout() -> None:
    """The call counts as interrupted."""

    async def before(context: ToolContext, args: dict[str, Any]) -> None:
        await asyncio.sleep(60)

    agent = Agent("a", model=twice(), tools=[lookup], hooks=Hooks(before_tool=before))
    result = await agent.generate("go", timeout=0.2)
    assert (result.finish_reason, result.tool_calls[0].state) == ("timeout", "interrupted")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Hooks(before_tool="x"),  # type: ignore[arg-type]
        lambda: Agent("a", hooks={"before_tool": print}),  # type: ignore[arg-type]
        lambda: tool(to_model="x")(lookup),  # type: ignore[call-overload]
    ],
)
def test_bad_hooks(make: Callable[[], object]) -> None:
    """What cannot be called is refused at once."""
    with pytest.raises(ConfigurationError):
        make()


# -- what the model is shown -------------------------------------------------------------------------


@tool(to_model=lambda rows: f"{len(rows)} rows")
def table(size: int) -> list[dict[str, int]]:
    """Fetch rows."""
    return [{"n": number} for number in range(size)]


def outputs(model: ScriptedModel, request: int) -> list[Any]:
    return [
        (part.output, part.model_output)
        for message in model.requests[request].messages
        for part in message.parts
        if isinstance(part, ToolPart)
    ]


async def test_the_model_is_shown_another_output_than_is_stored() -> None:
    """In the same run and in later turns; events, result and storage have the output itself."""
    async with Memory("sqlite://") as memory:
        model = ScriptedModel([ToolCall("table", {"size": 500}), "Many.", "Still many."])
        agent = Agent("a", model=model, memory=memory, tools=[table])
        async with agent.stream("go", resource="ana", thread="t") as stream:
            told = [event.result async for event in stream if event.type == "tool-result"]
        result = await stream.result()
        rows = [{"n": number} for number in range(500)]
        assert told == [rows]
        assert result.tool_calls[0].output == rows
        again = await agent.generate("and?", resource="ana", thread="t")
        assert outputs(model, 1) == outputs(model, 2) == [("500 rows", None)]
        stored = (await memory.resource("ana").thread("t").messages()).messages[1].parts[1]
        assert isinstance(stored, ToolPart)
        assert (stored.output, stored.model_output) == (rows, "500 rows")
        assert again.context.tokens < 300


async def test_what_a_processor_redacts_the_model_is_not_shown_either() -> None:
    """It is made of the output that processors have accepted."""

    @tool(to_model=lambda output: f"It said: {output}")
    def secret() -> str:
        """Tell."""
        return "the secret"

    class Redact(Processor):
        def process_tool_result(self, part: ToolPart, ctx: Any) -> ToolPart:
            import dataclasses

            return dataclasses.replace(part, output="[redacted]")

    model = ScriptedModel([ToolCall("secret"), "ok"])
    agent = Agent("a", model=model, tools=[secret], output_processors=[Redact()])
    result = await agent.generate("go")
    assert "the secret" not in repr(result)
    assert outputs(model, 1) == [("It said: [redacted]", None)]


async def test_a_to_model_that_fails_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The call has succeeded, and what is not for the model is not shown to it."""

    async def broken(output: Any) -> str:
        raise KeyError("x")

    @tool(to_model=broken)
    def act() -> str:
        """Act."""
        return "raw"

    assert isinstance(act, Tool)
    model = ScriptedModel([ToolCall("act"), "ok"])
    with caplog.at_level(logging.ERROR, "threadmark.agents"):
        result = await Agent("a", model=model, tools=[act]).generate("go")
    assert result.tool_calls[0].output == "raw"
    assert outputs(model, 1) == [("The call succeeded, but its result cannot be shown.", None)]
    assert "to_model of tool 'act' failed" in caplog.text


@pytest.mark.parametrize("place", ["before_tool", "after_tool"])
async def test_a_hook_cannot_suspend_a_call(place: str, caplog: pytest.LogCaptureFixture) -> None:
    """Before the tool it is an error of the call, and the tool is not called; after it, it is logged."""

    def suspend(context: ToolContext, given: object) -> None:
        context.suspend("why?")

    agent = Agent(
        "a",
        model=ScriptedModel([ToolCall("other"), "Done."]),
        tools=[other],
        hooks=Hooks(**{place: suspend}),  # type: ignore[arg-type]
    )
    with caplog.at_level(logging.ERROR, "threadmark.agents"):
        result = await agent.generate("go")
    (call,) = result.tool_calls
    assert result.text == "Done."
    if place == "before_tool":
        assert (call.state, call.error) == (
            "error",
            "ConfigurationError: a hook cannot suspend a call; only its tool can",
        )
    else:
        assert call.state == "result"


async def test_a_run_that_is_torn_down_is_no_aborted_one() -> None:
    """What is no `Exception` goes on through the run: its stream ends with an error, not with `abort`."""

    class Torn(BaseException):
        pass

    def tear(step: object) -> None:
        raise Torn("down")

    agent = Agent("a", model=ScriptedModel(["x"]), hooks=Hooks(prepare_step=tear))
    stream = agent.stream("go")
    assert [event.type for event in [event async for event in stream]][-1] == "error"
    with pytest.raises(Torn):
        await stream.result()

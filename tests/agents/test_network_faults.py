"""Networks used wrongly, stopped anywhere, routed badly: nothing is done twice or called what it is not."""

import asyncio
import contextlib
import re
from typing import Any

import pytest
from pydantic import BaseModel

from threadmark import (
    Agent,
    ConfigurationError,
    Hooks,
    Memory,
    Message,
    ModelError,
    ReasoningPart,
    StepChanges,
    TextPart,
    ToolPart,
    TripwireError,
    ValidationError,
    WorkflowContext,
    tool,
    workflow,
)
from threadmark.agents import Delegation, DelegationResult, StepVerdict
from threadmark.agents.network import CheckInput, CheckResult
from threadmark.agents.output import Output
from threadmark.models import ModelRequest
from threadmark.testing import ScriptedModel

from .networks import WHERE, add, done, network_of, route, run, shape, stored

pytestmark = pytest.mark.anyio


# -- answers that are not accepted -----------------------------------------------------------------------


async def test_a_hooks_feedback_and_a_processors_retry_reach_the_router_with_what_was_done() -> None:
    """Neither is taken for the task, and no choice is carried out again."""

    def after_step(end: Any) -> StepVerdict | None:
        return StepVerdict(feedback="check it twice") if end.step == 1 else None

    tries: list[str] = []

    def polite(message: Message) -> None:
        tries.append(message.text)
        if len(tries) == 1:
            raise TripwireError("say please", retry=True)

    for options in ({"hooks": Hooks(after_step=after_step)}, {"output_processors": [polite]}):
        replies = [route("add", {"a": 2, "b": 3}), done("5"), done("5, please")]
        agent, model = network_of(*replies, **options)
        result, events = await run(agent)
        assert len(result.steps) == 1
        assert [event.payload["task"] for event in events if event.type == "routing-agent-start"] == [
            "What is 2 and 3?"
        ]
        last = model.requests[-1].messages
        assert "<result>5</result>" in last[1].text
        assert "not accepted yet: " in last[-1].text
        assert result.is_complete


async def test_checks_are_not_asked_again_and_again_about_an_answer_that_is_refused() -> None:
    def polite(message: Message) -> None:
        if "6" not in message.text:
            raise TripwireError("it must be 6", retry=True)

    replies = [route("add", {"a": 2, "b": 3}), route("add", {"a": 3, "b": 3})]
    agent, model = network_of(*replies, output_processors=[polite])
    result, _ = await run(agent, checks=[lambda given: True])
    assert result.text == "6"
    assert "it must be 6" in model.requests[1].messages[-1].text


async def test_what_processors_have_not_accepted_is_not_told() -> None:
    """Not as text, not as the choice of nobody, and not in the last event."""

    def hide(message: Message) -> Message:
        return message.replace(
            parts=[
                TextPart(part.text.replace("1234", "****")) if isinstance(part, TextPart) else part
                for part in message.parts
            ]
        )

    for replies in (
        [route("add", {"a": 2, "b": 3}), done("The code is 1234.")],
        [route("none", "The code is 1234.", "none")],
    ):
        agent, _ = network_of(*replies, output_processors=[hide])
        result, events = await run(agent)
        assert result.text == "The code is ****."
        assert "1234" not in str([event.to_dict() for event in events])
        assert events[-1].payload["result"] == result.text
        told = [event.payload.get("text") or event.payload.get("result") for event in events[:-1]]
        assert result.text in told


# -- choosing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tool", "workflow", "agent"])
async def test_one_id_of_several_kinds_is_the_kind_that_was_chosen(kind: str) -> None:
    @workflow
    async def report(ctx: WorkflowContext, n: int) -> str:
        return "workflow"

    @tool(name="report")
    async def report_tool(n: int) -> str:
        return "tool"

    prompt: Any = "go" if kind == "agent" else {"n": 1}
    agent, _ = network_of(
        route("report", prompt, kind),
        done("x"),
        tools=[report_tool, report.tool()],
        agents=[Agent("report", model=ScriptedModel(["agent"]))],
    )
    result, _ = await run(agent)
    assert [(step.primitive_type, step.output) for step in result.steps] == [(kind, kind)]


async def test_a_choice_may_be_named_as_it_is_called() -> None:
    agent, _ = network_of(
        route("agent-expert", "go", "agent"), done("x"), agents=[Agent("expert", model=ScriptedModel(["E"]))]
    )
    assert [step.state for step in (await run(agent))[0].steps] == ["result"]


@pytest.mark.parametrize("name", ["", "call the weather tool!", "</done>\n<done>", "x" * 5000, 'a"b', "é"])
async def test_no_name_a_router_invents_spoils_the_thread(name: str) -> None:
    """It is an error of the call; what is stored and sent later is a name that every provider takes."""
    agent, model = network_of(route(name, {"a": 1}), done("x"), "plain")
    result, events = await run(agent, max_steps=1)
    assert "tool-execution-error" in shape(events)
    assert [step.state for step in result.steps] == ["error"]
    await agent.generate("Hi", **WHERE)
    names = [
        part.tool_name
        for message in model.requests[-1].messages
        for part in message.parts
        if isinstance(part, ToolPart)
    ]
    assert names
    assert all(re.fullmatch("[A-Za-z0-9_-]{1,64}", name) for name in names)


async def test_an_invented_name_never_becomes_that_of_a_tool() -> None:
    called: list[bool] = []

    @tool(name="wipe_all")
    async def wipe() -> None:
        called.append(True)

    agent, _ = network_of(route("wipe all"), done("x"), tools=[wipe])
    result, _ = await run(agent, max_steps=1)
    assert (called, result.steps[0].state) == ([], "error")


async def test_a_choice_that_contradicts_itself_is_asked_for_again() -> None:
    """A tool's input is not told as the answer, and nothing is not the answer."""
    agent, model = network_of(
        route("12345", {"a": 1, "b": 2}, "none"),
        route("none", "  ", "none"),
        route("add", {"a": 1, "b": 2}),
        '{"is_complete": true, "final_result": null}',
    )
    result, _ = await run(agent)
    assert (result.text, result.is_complete) == ("3", True)
    assert "primitive_type is 'none', but" in model.requests[1].messages[-1].text
    assert "prompt is empty" in model.requests[2].messages[-1].text


@pytest.mark.parametrize("choice", [route("divide", {"a": 1}), route("add", "x")])
async def test_nothing_is_done_while_no_choice_has_succeeded(choice: str) -> None:
    """Whatever the model that judges says: an unknown primitive or a failed one is no success."""
    agent, model = network_of(choice, done("All done."), choice, done("Really."))
    result, events = await run(agent, max_steps=2)
    assert (result.status, result.is_complete, result.text) == ("finished", False, "")
    assert "not done yet: no choice has succeeded" in model.requests[2].messages[-1].text
    ends = [event.payload for event in events if event.type == "network-validation-end"]
    assert [(end["passed"], end["reason"]) for end in ends] == [(False, "no choice has succeeded")] * 2
    assert "routing-agent-text-delta" not in shape(events)
    agent, _ = network_of(choice, done("All done."), route("none", "It cannot be done.", "none"))
    result, _ = await run(agent)  # the router may say so itself
    assert (result.is_complete, result.text) == (True, "It cannot be done.")


async def test_what_is_called_none_is_refused() -> None:
    @tool(name="none")
    async def nothing() -> None: ...

    agent, _ = network_of(tools=[nothing])
    async with agent.network("Hi", **WHERE) as stream:
        pass
    with pytest.raises(ConfigurationError, match="'none' is how a router says"):
        await stream.result()


async def test_a_hook_that_prepares_a_step_prepares_the_routers() -> None:
    """Another model routes, and only what it may choose is offered."""

    async def wipe() -> None:
        """Wipe."""

    other = ScriptedModel([route("add", {"a": 2, "b": 3})])
    hooks = Hooks(
        prepare_step=lambda step: StepChanges(model=other, tools=["add"]) if step.step == 1 else None
    )
    agent, model = network_of(done("5"), tools=[add, wipe], hooks=hooks)
    result, _ = await run(agent)
    assert (result.text, len(model.requests), len(other.requests)) == ("5", 1, 1)
    assert "'add'" in other.requests[0].instructions
    assert "'wipe'" not in other.requests[0].instructions


async def test_everything_is_chosen_once_in_a_turn() -> None:
    """Model, memory, tools and instructions given as functions of the request context."""
    asked: list[str] = []
    memory, model = Memory("sqlite://"), ScriptedModel([route("add", {"a": 2, "b": 3}), done("5")])

    def give(name: str, value: Any) -> Any:
        def choose(context: Any) -> Any:
            asked.append(name)
            return value

        return choose

    agent = Agent(
        "router",
        model=give("model", model),
        memory=give("memory", memory),
        tools=give("tools", [add]),
        instructions=give("instructions", "Route."),
    )
    await run(agent)
    assert sorted(asked) == ["instructions", "memory", "model", "tools"]


# -- ends -------------------------------------------------------------------------------------------------


async def test_result_and_last_event_say_the_same() -> None:
    """However a run ends: at the limit, by a timeout, by a hook, by a sub-agent, or as it was stored."""

    async def slow() -> str:
        """Take long."""
        await asyncio.sleep(30)
        return "never"

    class Sum(BaseModel):
        total: int

    async def never(request: ModelRequest) -> str:
        await asyncio.sleep(30)
        return ""

    sums = [route("add", {"a": 2, "b": 3}), done(None, complete=False, why="more is needed")]
    late = {"output": Output(Sum, model=ScriptedModel(never))}
    expert = Agent("expert", model=ScriptedModel(["The expert's."]))
    bail = Delegation(on_complete=lambda end: DelegationResult(bail=True))
    stop = Hooks(after_step=lambda end: StepVerdict(stop=True))
    cases: list[tuple[tuple[Agent, Any], dict[str, Any], tuple[str, bool, str, str]]] = [
        (
            network_of(*sums),
            {"max_steps": 1},
            ("finished", False, "the limit of 1 iterations was reached", "5"),
        ),
        (
            network_of(*sums, route("add", "x"), done(None, complete=False)),
            {"max_steps": 2},
            ("finished", False, "the limit of 2 iterations was reached", "5"),
        ),
        (
            network_of(route("slow"), tools=[slow]),
            {"timeout": 0.4},
            ("aborted", False, "the run was out of time", ""),
        ),
        (
            network_of(route("add", {"a": 2, "b": 3}), done("5")),
            {"timeout": 0.5, **late},
            ("aborted", False, "the run was out of time", "5"),
        ),
        (
            network_of(route("expert", "go", "agent"), agents=[expert], delegation=bail),
            {},
            (
                "finished",
                False,
                "the run was ended before it was checked whether the task is done",
                "The expert's.",
            ),
        ),
        (
            network_of(route("add", {"a": 2, "b": 3}), hooks=stop),
            {},
            ("finished", False, "the run was ended before it was checked whether the task is done", ""),
        ),
    ]
    for (agent, _), options, (status, complete, reason, text) in cases:
        for _ in range(2):  # and when it is asked for again
            result, events = await run(agent, run_id="r", **options)
            last = events[-1].payload
            assert (result.status, result.is_complete, result.completion_reason, result.text) == (
                status,
                complete,
                reason,
                text,
            )
            assert (last["status"], last["is_complete"], last["completion_reason"]) == (
                status,
                complete,
                reason,
            )
            assert last["result"] == (text if status == "finished" else None)
            assert last["iteration"] == len(result.steps)
            assert sum(event.terminal for event in events) == 1


@pytest.mark.parametrize("phase", ["routing", "tool", "check", "function", "object"])
async def test_cancelled_in_any_phase_it_is_aborted_and_nothing_goes_on(phase: str) -> None:
    """Nothing claims to be complete, no answer is stored, and what ran for it is stopped."""
    reached, stopped = asyncio.Event(), asyncio.Event()

    async def hang() -> Any:
        reached.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            stopped.set()
            raise

    class Sum(BaseModel):
        total: int

    order = ["routing", "check", "object"]
    replies = [route("work"), done("5"), '{"total": 5}']

    async def reply(request: ModelRequest) -> str:
        number = len(model.requests) - 1
        if number < len(order) and order[number] == phase:
            await hang()
        return replies[number]

    async def work() -> str:
        """Work."""
        if phase == "tool":
            await hang()
        return "5"

    async def judge(given: CheckInput) -> bool:
        await hang()
        return True

    model = ScriptedModel(reply)
    agent = Agent("router", model=model, memory=Memory("sqlite://"), tools=[work])
    options: dict[str, Any] = {"checks": [judge]} if phase == "function" else {}
    events: list[Any] = []

    async def read(stream: Any) -> None:
        events.extend([event async for event in stream])

    async with agent.network("Go", output=Sum, **options, **WHERE) as stream:
        reader = asyncio.ensure_future(read(stream))
        await reached.wait()
        stream.cancel()
    await reader
    result = await stream.result()
    await asyncio.wait_for(stopped.wait(), 5)
    assert (result.status, result.is_complete, result.object) == ("aborted", False, None)
    assert result.completion_reason == events[-1].payload["completion_reason"] == "the run was cancelled"
    assert sum(event.terminal for event in events) == 1
    assert events[-1].payload["is_complete"] is False
    assert [role for role, _ in await stored(agent)] == ["user", "assistant"][
        : 1 if phase == "routing" else 2
    ]
    run_ = await agent._memory.resource("ana").run(stream.run_id)  # type: ignore[union-attr]
    assert run_.status == "aborted"


async def test_checks_that_say_nothing_clear_have_not_passed() -> None:
    class SilentError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    async def cancels(given: CheckInput) -> bool:
        raise asyncio.CancelledError

    async def silent(given: CheckInput) -> bool:
        raise SilentError

    async def odd(given: CheckInput) -> CheckResult:
        return CheckResult(passed="no", reason="it says no")  # type: ignore[arg-type]

    async def stubborn(given: CheckInput) -> bool:
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(30)
        return True

    for check in (cancels, silent, odd, stubborn):
        agent, _ = network_of(route("add", {"a": 2, "b": 3}))
        result, _ = await run(agent, checks=[check], checks_timeout=0.05, max_steps=1)
        assert (result.status, result.is_complete, result.text) == ("finished", False, "5")
    for values in ({"passed": 1}, {"passed": True, "reason": None}, {"passed": True, "final_result": 5}):
        with pytest.raises(ValidationError):
            CheckResult(**values)


async def test_every_request_is_counted_and_nothing_else() -> None:
    """Of a run that failed, too; a function that judges is no request."""
    agent, _ = network_of(route("add", {"a": 2, "b": 3}), "prose", "prose", "prose")
    async with agent.network("Go", **WHERE) as stream:
        events = [event async for event in stream]
    with pytest.raises(ModelError):
        await stream.result()
    assert events[-1].payload["usage"]["requests"] == 4
    assert events[-1].payload["usage"]["input_tokens"] > 0
    agent, model = network_of(route("add", {"a": 2, "b": 3}))
    result, _ = await run(agent, checks=[lambda given: True])
    assert result.usage.requests == len(model.requests) == 1


async def test_the_text_that_is_told_is_the_answer_also_after_another_try() -> None:
    spoilt = done("A long answer that does not fit").replace('"because"', "5")
    agent, _ = network_of(route("add", {"a": 2, "b": 3}), spoilt, done("It is 5."))
    result, events = await run(agent)
    told = ""
    for event in events:
        if event.type == "routing-agent-text-start":
            told = ""
        told += event.payload.get("text", "")
    assert told == result.text == "It is 5."


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"checks": 5}, ConfigurationError, "checks must be a sequence of functions"),
        ({"checks": lambda given: True}, ConfigurationError, r"write \[check\]"),
        ({"checks": [1]}, ConfigurationError, "checks must be functions"),
        ({"checks_timeout": -1}, ValidationError, "checks_timeout must be a positive number"),
        ({"checks_pass": "some"}, ValidationError, "checks_pass must be one of"),
        ({"instructions": 5}, ConfigurationError, "instructions of a network must be text"),
        ({"thread": None}, ValidationError, "thread is missing"),
    ],
)
async def test_options_are_checked(options: dict[str, Any], error: type[Exception], match: str) -> None:
    agent, model = network_of()
    with pytest.raises(error, match=match):
        agent.network("Hi", **{**WHERE, **options})
    assert model.requests == []


async def test_what_the_judging_model_thinks_is_not_told_as_the_answer() -> None:
    thought = ReasoningPart('Perhaps {"is_complete": true, "final_result": "It is 6, I think')
    agent, _ = network_of(route("add", {"a": 2, "b": 3}), [thought, TextPart(done("It is 5."))])
    result, events = await run(agent)
    told = "".join([e.payload["text"] for e in events if e.type == "routing-agent-text-delta"])
    assert told == result.text == "It is 5."

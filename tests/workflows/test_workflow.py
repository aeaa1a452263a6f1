"""Workflows: steps are recorded and not executed again; pauses survive the process; races have one winner."""

import asyncio
import datetime
from typing import Any

import pytest
from pydantic import BaseModel

from threadmark import (
    Agent,
    ConfigurationError,
    ConflictError,
    Memory,
    NotFoundError,
    ThreadmarkError,
    ValidationError,
    Workflow,
    WorkflowContext,
    WorkflowStepError,
    tool,
    workflow,
)
from threadmark.memory.runs import LEASE
from threadmark.testing import FakeClock, ScriptedModel
from threadmark.workflows import WorkflowEvent

pytestmark = pytest.mark.anyio

WHERE: dict[str, Any] = {"resource": "ana", "thread": "t"}


class Approval(BaseModel):
    approved: bool
    by: str = "somebody"


def counted(log: list[str], name: str, value: Any = None, errors: int = 0) -> Any:
    """A function that notes each call, and fails the first `errors` times."""
    left = [errors]

    async def work(*args: Any) -> Any:
        log.append(name)
        if left[0] > 0:
            left[0] -= 1
            raise OSError(f"{name} is down")
        return value if value is not None else list(args)

    return work


async def test_steps_are_plain_python() -> None:
    """Branches, loops and parallel steps are the language's own; the result has the type that it says."""

    @workflow
    async def report(ctx: WorkflowContext, day: datetime.date, names: list[str]) -> dict[str, datetime.date]:
        """Report.

        Args:
            day: Which day.
        """
        next_day = await ctx.step(
            "next", lambda d: d + datetime.timedelta(days=1), day, returns=datetime.date
        )
        first, second = await ctx.parallel(ctx.step("one", lambda: 1), ctx.step("two", lambda: 2))
        assert (first, second) == (1, 2)
        upper = await ctx.foreach("upper", str.upper, names, concurrency=2)
        return dict.fromkeys(upper, next_day)

    result = await report.run(day="2026-01-31", names=["a", "b", "c"])
    assert result.status == "finished"
    assert result.output == dict.fromkeys("ABC", datetime.date(2026, 2, 1))
    assert set(result.steps) == {"next", "one", "two", "upper[0]", "upper[1]", "upper[2]"}
    assert report.definition.parameters["required"] == ["day", "names"]
    assert report.definition.parameters["properties"]["day"]["description"] == "Which day."
    with pytest.raises(ValidationError, match="names: Field required"):
        await report.run(day="2026-01-31")


def refund_of(log: list[str], memory: Memory) -> Workflow:
    @workflow(memory=memory)
    async def refund(ctx: WorkflowContext, order: str) -> str:
        amount = await ctx.step("look up", counted(log, "look up", 120), order)
        answer = await ctx.suspend("manager", {"amount": amount}, answer=Approval)
        if not answer.approved:
            ctx.bail(f"refused by {answer.by}")
        await ctx.step("pay", counted(log, "pay"), order, amount, once=True)
        return f"paid {amount}, said {answer.by}"

    return refund


async def test_a_run_waits_in_the_database_and_goes_on_in_another_process(tmp_path: Any) -> None:
    """What was done before the pause is not done again, by whatever process goes on."""
    log: list[str] = []
    url = f"sqlite:///{tmp_path / 'w.db'}"
    first = await refund_of(log, Memory(url)).run(order="7", **WHERE)
    assert (first.status, log) == ("suspended", ["look up"])
    (pause,) = first.pending
    assert (pause.name, pause.payload) == ("manager", {"amount": 120})
    assert pause.schema is not None
    assert set(pause.schema["properties"]) == {"approved", "by"}

    again = refund_of(log, Memory(url))  # as a new process makes it
    stored = await again.get(first.run_id, resource="ana")
    assert stored is not None
    assert stored.pending[0].payload == {"amount": 120}
    for wrong in ({"approved": "perhaps"}, None, {"by": "Bob"}):
        with pytest.raises(ValidationError, match=r"approved|value"):
            await again.resume(first.run_id, wrong, resource="ana")
    done = await again.resume(first.run_id, {"approved": True, "by": "Bob"}, resource="ana")
    assert (done.status, done.output) == ("finished", "paid 120, said Bob")
    assert log == ["look up", "pay"]
    with pytest.raises(ConflictError, match="is finished"):
        await again.resume(first.run_id, {"approved": True}, resource="ana")
    assert (await again.run(order="7", run_id=first.run_id, **WHERE)).output == done.output
    assert log == ["look up", "pay"]
    run = await Memory(url).resource("ana").run(first.run_id)
    assert run is not None
    assert (run.agent, run.status, run.finish_reason) == ("workflow:refund", "finished", "stop")


async def test_bail_is_a_success_and_later_steps_do_not_run() -> None:
    log: list[str] = []
    refund = refund_of(log, Memory("sqlite://"))
    first = await refund.run(order="7", **WHERE)
    done = await refund.resume(first.run_id, {"approved": False, "by": "Eva"}, resource="ana")
    assert (done.status, done.output, log) == ("finished", "refused by Eva", ["look up"])


async def test_two_answers_at_once_have_one_winner() -> None:
    log: list[str] = []
    refund = refund_of(log, Memory("sqlite://"))
    for _ in range(20):
        log.clear()
        first = await refund.run(order="7", **WHERE)
        answers = [refund.resume(first.run_id, {"approved": True}, resource="ana") for _ in range(4)]
        outcomes = await asyncio.gather(*answers, return_exceptions=True)
        assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
        assert all(isinstance(o, ConflictError) for o in outcomes if isinstance(o, BaseException))
        assert log == ["look up", "pay"]


async def test_someone_elses_run_is_as_absent_as_one_that_never_was() -> None:
    refund = refund_of([], Memory("sqlite://"))
    first = await refund.run(order="7", **WHERE)
    assert await refund.get(first.run_id, resource="bob") is None
    said = []
    for owner, run_id in (("bob", first.run_id), ("ana", "none")):
        with pytest.raises(NotFoundError) as caught:
            await refund.resume(run_id, {"approved": True}, resource=owner)
        said.append(str(caught.value).replace(run_id, "..."))
    assert said[0] == said[1]


async def test_several_pauses_are_announced_at_once_and_answered_one_by_one() -> None:
    memory = Memory("sqlite://")

    @workflow(memory=memory)
    async def votes(ctx: WorkflowContext) -> list[int]:
        return await ctx.parallel(
            ctx.suspend("a", answer=int), ctx.step("b", lambda: 5), ctx.suspend("c", answer=int)
        )

    first = await votes.run(**WHERE)
    assert [pause.name for pause in first.pending] == ["a", "c"]
    assert first.steps["b"].output == 5
    with pytest.raises(ValidationError, match="waits for a, c; name one"):
        await votes.resume(first.run_id, 1, resource="ana")
    with pytest.raises(NotFoundError, match="waits for no 'b'"):
        await votes.resume(first.run_id, 1, resource="ana", name="b")
    second = await votes.resume(first.run_id, 3, resource="ana", name="c")
    assert (second.status, [pause.name for pause in second.pending]) == ("suspended", ["a"])
    assert (await votes.resume(first.run_id, 1, resource="ana")).output == [1, 5, 3]


async def test_a_step_is_tried_again_and_then_fails_for_good() -> None:
    """A failure is recorded like a result: code that caught it sees it again when the run goes on."""
    log: list[str] = []
    caught: list[tuple[str, str]] = []
    memory = Memory("sqlite://")

    @workflow(memory=memory)
    async def patient(ctx: WorkflowContext) -> str:
        await ctx.step("flaky", counted(log, "flaky", 1, errors=2), retries=2)
        try:
            await ctx.step("broken", counted(log, "broken", 1, errors=2), retries=1)
        except WorkflowStepError as error:
            caught.append((error.step, str(error)))
            await ctx.suspend("help")
            return "with help"
        return "alone"

    first = await patient.run(**WHERE)
    assert log == ["flaky"] * 3 + ["broken"] * 2
    done = await patient.resume(first.run_id, None, resource="ana")
    assert done.output == "with help"
    assert len(log) == 5
    assert done.steps["broken"].status == "failed"
    assert caught == [("broken", "OSError: broken is down")] * 3  # when it ran, was asked for, and went on


async def test_a_run_that_fails_says_so() -> None:
    memory = Memory("sqlite://")

    @workflow(memory=memory)
    async def failing(ctx: WorkflowContext) -> None:
        await ctx.step("boom", counted([], "boom", errors=1))

    with pytest.raises(WorkflowStepError, match="boom is down") as caught:
        await failing.run(run_id="r", **WHERE)
    assert caught.value.result.status == "failed"
    stored = await failing.get("r", resource="ana")
    assert stored is not None
    assert (stored.status, stored.error) == ("failed", "WorkflowStepError: OSError: boom is down")
    with pytest.raises(ConflictError, match="is failed and waits for nothing"):
        await failing.resume("r", resource="ana")


async def test_a_run_whose_process_died_is_gone_on_with_after_its_lease() -> None:
    """What was under way is executed again; what may run only once is reported as unknown instead."""
    clock = FakeClock()
    memory = Memory("sqlite://", clock=clock)
    log: list[str] = []
    hang, begun = asyncio.Event(), asyncio.Event()

    async def stuck(name: str) -> str:
        log.append(name)
        begun.set()
        if not hang.is_set():
            await asyncio.sleep(60)
        return name

    @workflow(memory=memory)
    async def two(ctx: WorkflowContext, once: bool) -> list[str]:
        first = await ctx.step("first", counted(log, "first", "done"))
        try:
            return [first, await ctx.step("second", stuck, "second", once=once)]
        except WorkflowStepError as error:
            return [first, str(error)]

    for once, expected in ((False, ["done", "second"]), (True, ["done", "the process died while it ran"])):
        log.clear()
        hang.clear()
        begun.clear()
        run_id = f"r-{once}"
        task = asyncio.ensure_future(two.run(once=once, run_id=run_id, **WHERE))
        await begun.wait()
        # A process that dies writes nothing more.
        with pytest.MonkeyPatch.context() as patch:

            async def nothing(*_: Any, **__: Any) -> None: ...

            patch.setattr("threadmark.workflows.journal.Journal.write", nothing)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        with pytest.raises(ConflictError, match="is under way"):
            await two.resume(run_id, resource="ana")
        with pytest.raises(ConflictError, match="is under way"):
            await two.run(once=once, run_id=run_id, **WHERE)
        clock.advance(LEASE + 1)
        hang.set()
        done = await two.run(once=once, run_id=run_id, **WHERE)
        assert done.output is not None
        assert done.output[0] == expected[0]
        assert done.output[1].startswith(expected[1])
        assert log == (["first", "second"] if once else ["first", "second", "second"])


async def test_cancelled_it_is_an_aborted_run() -> None:
    memory = Memory("sqlite://")

    @workflow(memory=memory)
    async def long(ctx: WorkflowContext) -> None:
        await ctx.step("sleep", asyncio.sleep, 60)

    task = asyncio.ensure_future(long.run(run_id="r", **WHERE))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stored = await long.get("r", resource="ana")
    assert stored is not None
    assert stored.status == "aborted"


async def test_changed_code_is_noticed() -> None:
    """A recorded step with other arguments answers another question: it is not used."""
    memory = Memory("sqlite://")

    def made(rate: int) -> Workflow:
        @workflow(name="pricing", memory=memory)
        async def pricing(ctx: WorkflowContext) -> int:
            price: int = await ctx.step("price", lambda r: 10 * r, rate)
            await ctx.suspend("sure?")
            return price

        return pricing

    first = await made(2).run(**WHERE)
    with pytest.raises(ConflictError, match="has changed"):
        await made(3).resume(first.run_id, "yes", resource="ana")
    assert (await made(2).resume(first.run_id, "yes", resource="ana")).output == 20


async def test_a_run_id_is_for_one_input() -> None:
    refund = refund_of([], Memory("sqlite://"))
    await refund.run(order="7", run_id="r", **WHERE)
    with pytest.raises(ConflictError, match="made for something else"):
        await refund.run(order="8", run_id="r", **WHERE)


async def test_agents_tools_and_workflows_are_steps() -> None:
    """An agent's turn is stored once, also if the run is gone on with."""
    memory = Memory("sqlite://")
    model = ScriptedModel(["A poem."])
    poet = Agent("poet", model=model, memory=memory)

    @tool
    def shout(text: str) -> str:
        """Make it loud."""
        return text.upper()

    @workflow
    async def inner(ctx: WorkflowContext, text: str) -> int:
        return len(text)

    @workflow(memory=memory)
    async def outer(ctx: WorkflowContext) -> list[Any]:
        poem = await ctx.step("write", poet, "Write", resource="ana", thread="poems")
        loud = await ctx.step("shout", shout, poem)
        await ctx.suspend("read it")
        return [loud, await ctx.step("count", inner, text=loud)]

    first = await outer.run(**WHERE)
    done = await outer.resume(first.run_id, None, resource="ana")
    assert done.output == ["A POEM.", 7]
    assert len(model.requests) == 1
    assert len(await memory.resource("ana").thread("poems").messages()) == 2


async def test_events() -> None:
    refund, seen = refund_of([], Memory("sqlite://")), list[WorkflowEvent]()
    first = await refund.run(order="7", on_event=seen.append, **WHERE)
    await refund.resume(first.run_id, {"approved": True}, resource="ana", on_event=seen.append)
    assert [(event.type.removeprefix("workflow-"), event.step) for event in seen] == [
        ("start", None),
        ("step-start", "look up"),
        ("step-result", "look up"),
        ("step-suspended", "manager"),
        ("finish", None),
        ("start", None),
        ("step-start", "pay"),
        ("step-result", "pay"),
        ("finish", None),
    ]
    assert seen[-1].data["status"] == "finished"


async def test_without_a_memory_it_cannot_suspend() -> None:
    refund = refund_of([], Memory("sqlite://"))
    with pytest.raises(ConfigurationError, match="cannot suspend without"):
        await refund.run(order="7")


async def test_what_is_not_json_is_an_error_of_its_step() -> None:
    @workflow
    async def odd(ctx: WorkflowContext) -> None:
        await ctx.step("object", object)

    with pytest.raises(WorkflowStepError, match="gave what is not JSON"):
        await odd.run()


def test_sync_twins() -> None:
    refund = refund_of([], Memory("sqlite://"))
    first = refund.run_sync(order="7", **WHERE)
    assert refund.resume_sync(first.run_id, {"approved": False}, resource="ana").status == "finished"


def test_what_cannot_be_a_workflow() -> None:
    with pytest.raises(ConfigurationError, match="async function"):
        workflow(lambda ctx: None)

    async def none() -> None: ...

    with pytest.raises(ConfigurationError, match="first parameter"):
        workflow(none)

    async def untyped(ctx: WorkflowContext, x) -> None: ...  # type: ignore[no-untyped-def]

    with pytest.raises(ConfigurationError, match="no type annotation"):
        workflow(untyped)
    assert issubclass(WorkflowStepError, ThreadmarkError)

"""An abort at any hook leaves the database as it was, and shows nothing of what was blocked."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from threadmark import Memory, ModelError, ProcessorError, WorkingMemory
from threadmark.agents import Agent, event_from_dict
from threadmark.processors import Processor
from threadmark.processors.base import HOOKS
from threadmark.testing import ScriptedModel, ToolCall

from .conftest import Dump, both, dump, run

pytestmark = pytest.mark.anyio

SECRET = "the blocked secret"
WHERE = [
    ("process_input", 0, False),
    ("process_input_step", 1, False),
    ("process_input_step", 2, False),
    ("process_output_stream", 1, False),
    ("process_output_stream", 2, False),
    ("process_output_stream", 2, True),
    ("process_output_step", 1, False),
    ("process_output_step", 2, False),
    ("process_output_step", 2, True),
    ("process_tool_result", 1, False),
    ("process_output_result", 2, False),
    ("process_output_result", 2, True),
    ("process_api_error", 2, False),
]


class Stopper(Processor):
    """Does what `act` does with the context, at one hook of one step."""

    def __init__(self, hook: str, step: int, act: Callable[[Any], Any], streams: bool = False) -> None:
        self.streams = streams

        async def method(value: Any, ctx: Any) -> Any:
            return act(ctx) if ctx.step == step else None

        setattr(self, hook, method)


def abort(ctx: Any) -> None:
    ctx.abort("not allowed", metadata={"code": 7})


def crash(ctx: Any) -> None:
    raise RuntimeError("boom")


def lookup(query: str) -> str:
    """Look something up."""
    return f"result of {query}"


def script(hook: str) -> ScriptedModel:
    note = ToolCall("update_working_memory", {"memory": "# Ana\n- likes the blocked secret"})
    last: Any = ModelError("down", status=500) if hook == "process_api_error" else f"This is {SECRET}."
    return ScriptedModel([["Let me note that.", note, ToolCall("lookup", {"query": SECRET})], last, last])


def agent_with(memory: Memory, hook: str, processor: Processor, **options: Any) -> Agent:
    kind = {"process_input": "input", "process_input_step": "input", "process_api_error": "error"}
    return Agent(
        "a",
        model=script(hook),
        memory=memory,
        tools=[lookup],
        **{f"{kind.get(hook, 'output')}_processors": [processor]},  # type: ignore[arg-type]
        **options,
    )


@pytest.fixture
async def filled(memory: Memory) -> Memory:
    """Another owner, and this owner with a thread, a working memory, and an index of what was said."""
    await memory.store.enable_recall(memory.now())
    first = Agent(
        "a",
        memory=memory,
        model=ScriptedModel(lambda request: "hello"),
    )
    for owner in ("bob", "ana"):
        await first.generate("Hi", resource=owner, thread="old")
        await memory.resource(owner).working_memory.set("# known\n- something")
    return memory


def test_every_hook_is_covered() -> None:
    """The matrix below has all hooks."""
    assert {hook for hook, _, _ in WHERE} == set(HOOKS)


@both
@pytest.mark.parametrize("thread", ["new", "old"])
@pytest.mark.parametrize(("hook", "step", "streams"), WHERE)
async def test_abort(
    filled: Memory,
    rows: Callable[[], Awaitable[Dump]],
    hook: str,
    step: int,
    streams: bool,
    thread: str,
    mode: str,
) -> None:
    """Nothing is stored: no thread, message, run or working memory, though a tool had changed it before."""
    agent = agent_with(filled, hook, Stopper(hook, step, abort, streams))
    before = await rows()
    told = await run(
        agent,
        mode,
        "a question",
        resource="ana",
        thread={"id": thread, "title": "T", "metadata": {"k": 1}},
        working_memory=WorkingMemory(),
        generate_title=True,
    )
    await filled.settled()
    assert await rows() == before
    result = told.result
    assert result.finish_reason == "tripwire"
    assert result.tripwire is not None
    assert (result.tripwire.reason, result.tripwire.processor) == ("not allowed", "stopper")
    assert (result.tripwire.hook, result.tripwire.metadata) == (hook, {"code": 7})
    assert result.text == ""
    assert result.message is None
    assert result.messages == ()
    assert SECRET not in repr(result)
    if mode == "stream":
        assert told.kinds[-1] == "tripwire"
        assert sum(event.terminal for event in told.events) == 1
        last = told.events[-1]
        assert event_from_dict(json.loads(json.dumps(last.to_dict()))) == last
        if step == 2 and not streams:
            assert SECRET not in told.text
    asked = (hook, step) not in (("process_input", 0), ("process_input_step", 1))
    assert (result.usage.requests > 0) == asked
    # The next turn knows nothing of it.
    model = ScriptedModel(["fine"])
    again = await agent.generate(
        "next", resource="ana", thread=thread, model=model, input_processors=[], output_processors=[]
    )
    assert again.text == "fine"
    assert SECRET not in repr(model.requests)
    assert "a question" not in repr(model.requests)


@both
@pytest.mark.parametrize("thread", ["new", "old"])
@pytest.mark.parametrize(("hook", "step", "streams"), WHERE)
async def test_a_hook_that_raises(
    filled: Memory,
    rows: Callable[[], Awaitable[Dump]],
    hook: str,
    step: int,
    streams: bool,
    thread: str,
    mode: str,
) -> None:
    """The run fails with what the hook raised, named; nothing is stored."""
    agent = agent_with(filled, hook, Stopper(hook, step, crash, streams))
    before = await rows()
    with pytest.raises(ProcessorError, match=f"'stopper', {hook}: raised RuntimeError: boom") as caught:
        await run(agent, mode, "q", resource="ana", thread=thread, working_memory=True)
    assert await rows() == before
    assert (caught.value.processor, caught.value.hook) == ("stopper", hook)
    assert isinstance(caught.value.__cause__, RuntimeError)
    if caught.value.result is not None:
        assert caught.value.result.message is None


@both
async def test_abort_without_memory(mode: str) -> None:
    """Processors stop a run that has no memory as well."""
    agent = Agent(
        "a", model=ScriptedModel(["x"]), output_processors=[Stopper("process_output_step", 1, abort)]
    )
    told = await run(agent, mode, "q")
    assert told.result.tripwire is not None
    assert told.result.text == ""


@both
@pytest.mark.parametrize(("hook", "step", "streams"), WHERE)
async def test_abort_after_an_early_save(
    filled: Memory, hook: str, step: int, streams: bool, mode: str
) -> None:
    """With `save_user_first`, messages stored early are taken back; the thread and an empty run stay."""
    agent = agent_with(filled, hook, Stopper(hook, step, abort, streams))
    before = await dump(filled)
    told = await run(
        agent, mode, "a question", resource="ana", thread="new", save_user_first=True, working_memory=True
    )
    assert told.result.tripwire is not None
    after = await dump(filled)
    assert SECRET not in repr(after)
    assert "a question" not in repr(after)
    assert "not allowed" not in repr(after)
    assert after["messages"] == before["messages"]
    assert after["working_memory"] == before["working_memory"]
    early = (hook, step) not in (("process_input", 0), ("process_input_step", 1))
    assert (after == before) == (not early)
    if early:
        (record,) = (await filled.store.list_runs("ana", thread_id="new")).runs
        assert (record.status, record.finish_reason) == ("aborted", "tripwire")


async def test_a_stopped_run_that_was_recorded_is_replayed_as_stopped(filled: Memory) -> None:
    """A repeated call of a run that `save_user_first` recorded tells again that it was stopped."""
    agent = agent_with(filled, "x", Stopper("process_output_step", 2, abort))
    options: dict[str, Any] = {"resource": "ana", "thread": "t", "run_id": "r", "save_user_first": True}
    await agent.generate("q", **options)
    told = await run(agent, "stream", "q", **options)
    assert told.result.replayed
    assert told.result.tripwire is not None
    assert told.kinds == ["tripwire"]


@both
@pytest.mark.parametrize(("hook", "step", "streams"), WHERE)
@pytest.mark.parametrize("crashes", [False, True])
async def test_abort_of_a_named_run(
    filled: Memory, hook: str, step: int, streams: bool, crashes: bool, mode: str
) -> None:
    """A run with an id of the caller's leaves no content; once its model was asked, its id is used up."""
    agent = agent_with(filled, hook, Stopper(hook, step, crash if crashes else abort, streams))
    options: dict[str, Any] = {
        "resource": "ana",
        "thread": "new",
        "run_id": "mine",
        "working_memory": True,
    }
    before = await dump(filled)
    if crashes:
        with pytest.raises(ProcessorError):
            await run(agent, mode, "a question", **options)
    else:
        assert (await run(agent, mode, "a question", **options)).result.tripwire is not None
    after = await dump(filled)
    assert after["messages"] == before["messages"]
    assert after["working_memory"] == before["working_memory"]
    if (hook, step) in (("process_input", 0), ("process_input_step", 1)):
        assert after == before
        return
    assert SECRET not in repr(after)
    assert "a question" not in repr(after)
    run_record = await filled.store.get_run("ana", "mine")
    assert run_record is not None
    assert (run_record.status, run_record.state) == ("aborted", None)
    asked = ScriptedModel([])
    if crashes:
        with pytest.raises(ModelError, match="processor 'stopper' failed"):
            await run(agent, mode, "a question", model=asked, **options)
    else:
        again = (await run(agent, mode, "a question", model=asked, **options)).result
        assert again.replayed
        assert again.tripwire is not None
        assert again.tripwire.reason == "processor 'stopper' stopped the run"
    assert asked.requests == []


async def test_an_abort_counts_even_when_swallowed() -> None:
    """A hook that catches its own abort has aborted all the same."""

    async def guard(messages: Any, ctx: Any) -> Any:
        try:
            ctx.abort("no")
        except Exception:
            return messages

    result = await Agent("a", model=ScriptedModel(["x"]), input_processors=[guard]).generate("q")
    assert result.tripwire is not None
    assert result.tripwire.processor == "guard"


async def test_metadata_of_an_abort_is_made_json() -> None:
    """Metadata that JSON cannot hold is shown as text rather than failing the run."""

    def guard(messages: Any, ctx: Any) -> Any:
        ctx.abort("no", metadata={"a": {1}, "b": [1]})

    result = await Agent("a", model=ScriptedModel(["x"]), input_processors=[guard]).generate("q")
    assert result.tripwire is not None
    assert result.tripwire.metadata == {"a": "{1}", "b": [1]}

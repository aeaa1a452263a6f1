"""What hooks see, what they may return, in which order they run, and what bounds them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from threadmark import Memory, Message, ModelError, ProcessorError, TextPart, ToolPart
from threadmark.agents import Agent
from threadmark.models.base import ModelRequest, ModelResponse
from threadmark.processors import Processor, Retry
from threadmark.processors.base import HOOKS
from threadmark.testing import ScriptedModel, ToolCall

from .conftest import both, dump, run

pytestmark = pytest.mark.anyio


def lookup(query: str) -> str:
    """Look something up."""
    return f"result of {query}"


class Logs(Processor):
    """Writes down each hook that is called."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        for hook in HOOKS:
            setattr(self, hook, self._writer(hook, log))

    def _writer(self, hook: str, log: list[str]) -> Callable[..., Any]:
        async def write(value: Any, ctx: Any) -> None:
            log.append(f"{self.name}.{hook}")

        return write


@both
async def test_order(memory: Memory, mode: str) -> None:
    """Memory's loaders, then input processors as listed; output processors as listed, then storing."""
    log: list[str] = []
    p1, p2, q1, q2 = (Logs(name, log) for name in ("p1", "p2", "q1", "q2"))
    script = ScriptedModel([ToolCall("lookup", {"query": "x"}), "done"])

    async def stored_yet(message: Message, ctx: Any) -> None:
        assert ctx.history[0].text == "before"  # memory has loaded
        log.append(f"stored {len((await memory.store.list_runs('ana')).runs)}")

    await memory.resource("ana").threads.create("t")
    await memory.resource("ana").thread("t").save([Message.user("before")])
    agent = Agent(
        "a",
        model=script,
        memory=memory,
        tools=[lookup],
        input_processors=[p1, p2],
        output_processors=[q1, q2, stored_yet],
    )
    await run(agent, mode, "q", resource="ana", thread="t")
    step = ["p1.process_input_step", "p2.process_input_step"]
    judged = ["q1.process_output_step", "q2.process_output_step"]
    tool = [f"{name}.process_tool_result" for name in ("p1", "p2", "q1", "q2")]
    assert log == [
        "p1.process_input",
        "p2.process_input",
        *step,
        *judged,
        *tool,
        *step,
        "q1.process_output_stream",
        "q2.process_output_stream",
        *judged,
        "q1.process_output_result",
        "q2.process_output_result",
        "stored 0",
    ]


@both
async def test_state_is_of_one_processor_and_one_run(mode: str) -> None:
    """All hooks of a processor share its state within a run; another of the same name, or run, does not."""

    class Counts(Processor):
        def __init__(self) -> None:
            self.seen: list[int] = []

        def _count(self, ctx: Any) -> None:
            ctx.state["n"] = ctx.state.get("n", 0) + 1
            self.seen.append(ctx.state["n"])

        async def process_input(self, messages: Any, ctx: Any) -> None:
            self._count(ctx)

        async def process_output_result(self, message: Any, ctx: Any) -> None:
            self._count(ctx)

    one, two = Counts(), Counts()
    agent = Agent(
        "a",
        model=ScriptedModel(lambda request: "x"),
        input_processors=[one, two],
        output_processors=[one, two],
    )
    await asyncio.gather(*[run(agent, mode, "q") for _ in range(3)])
    assert sorted(one.seen) == sorted(two.seen) == [1, 1, 1, 2, 2, 2]


@both
async def test_what_the_hooks_changed_is_shown_and_stored(memory: Memory, mode: str) -> None:
    """Input, answer and tool outcome are stored, told and sent as the hooks made them."""

    class Changes(Processor):
        async def process_input(self, messages: Sequence[Message], ctx: Any) -> list[Message]:
            return [message.replace(text=message.text.upper()) for message in messages]

        async def process_output_step(self, parts: Any, ctx: Any) -> list[Any]:
            return [TextPart(p.text + "!") if isinstance(p, TextPart) else p for p in parts]

        async def process_tool_result(self, part: ToolPart, ctx: Any) -> ToolPart:
            return ToolPart(
                tool_call_id=part.tool_call_id,
                tool_name=part.tool_name,
                args=part.args,
                state="result",
                output="changed",
            )

        async def process_output_result(self, message: Message, ctx: Any) -> Message:
            parts = [TextPart(p.text + "?") if isinstance(p, TextPart) else p for p in message.parts]
            return message.replace(parts=parts, metadata={"judged": True})

    model = ScriptedModel([["one", ToolCall("lookup", {"query": "x"})], "two"])
    change = Changes()
    agent = Agent(
        "a",
        model=model,
        memory=memory,
        tools=[lookup],
        input_processors=[change],
        output_processors=[change],
    )
    told = await run(agent, mode, "hello", resource="ana", thread="t")
    assert told.result.text == "one!?two!?"
    stored = (await memory.resource("ana").thread("t").messages()).messages
    assert [message.text for message in stored] == ["HELLO", "one!?two!?"]
    assert stored[1].metadata == {"judged": True}
    assert told.result.tool_calls[0].output == "changed"
    assert [message.text for message in model.requests[0].messages] == ["HELLO"]
    assert model.requests[1].messages[-1].parts[2].output == "changed"  # type: ignore[union-attr]
    if mode == "stream":
        assert told.text == "one!?two!?"
        assert [e.result for e in told.events if e.type == "tool-result"] == ["changed"]


@both
async def test_a_step_changes_the_step_only(memory: Memory, mode: str) -> None:
    """What an input-step hook changes is sent, is in the report, and is neither stored nor kept."""

    class Steps(Processor):
        async def process_input_step(self, request: ModelRequest, ctx: Any) -> ModelRequest | None:
            if ctx.step > 1:
                return None
            return ModelRequest(
                messages=request.messages[1:],
                instructions="other",
                tools=request.tools[:1],
                settings={"temperature": 0},
            )

    def other(query: str) -> str:
        """Not offered in the first step."""
        raise AssertionError("it was called")

    model = ScriptedModel([ToolCall("other", {"query": "x"}), "done"])
    agent = Agent(
        "a", instructions="mine", model=ScriptedModel(["one"]), memory=memory, tools=[lookup, other]
    )
    await agent.generate("first", resource="ana", thread="t")
    told = await run(
        agent, mode, "second", resource="ana", thread="t", model=model, input_processors=[Steps()]
    )
    first, second = model.requests
    assert [message.text for message in first.messages] == ["one", "second"]
    assert (first.instructions, first.settings) == ("other", {"temperature": 0})
    assert [tool.name for tool in first.tools] == ["lookup"]
    assert "Unknown tool" in str(told.result.tool_calls[0].error)
    assert [message.text for message in second.messages] == ["first", "one", "second", ""]
    assert second.instructions == "mine"
    report = told.result.context
    assert report.breaks[-1] == "processors changed the prompt: steps"
    stored = (await memory.resource("ana").thread("t").messages()).messages
    assert list(report.dropped) == [stored[0].id]
    history = next(block for block in report.blocks if block.kind == "history")
    assert list(history.sources) == [stored[1].id]
    assert [message.text for message in stored] == ["first", "one", "second", "done"]


@both
async def test_a_step_can_be_answered_without_the_model(mode: str) -> None:
    """An input-step hook that returns a response answers the step; output hooks see it as any other."""

    async def answer(request: ModelRequest, ctx: Any) -> ModelResponse:
        return ModelResponse(parts=(TextPart("from elsewhere"),))

    seen: list[str] = []
    processor = Processor()
    processor.process_input_step = answer  # type: ignore[method-assign]
    agent = Agent(
        "a",
        model=ScriptedModel([]),
        input_processors=[processor],
        output_processors=[lambda message: seen.append(message.text)],
    )
    told = await run(agent, mode, "q")
    assert told.result.text == "from elsewhere"
    assert told.result.usage.requests == 0
    assert seen == ["from elsewhere"]
    assert mode == "generate" or told.text == "from elsewhere"


@both
@pytest.mark.parametrize("nothing", [None, [], ()])
async def test_no_change(memory: Memory, nothing: Any, mode: str) -> None:
    """`None` and empty sequences change nothing."""

    class Nothing(Processor):
        def process_input(self, messages: Any, ctx: Any) -> Any:
            return nothing

        def process_input_step(self, request: Any, ctx: Any) -> Any:
            return None if nothing is None else ModelRequest(messages=nothing)

        def process_output_step(self, parts: Any, ctx: Any) -> Any:
            return nothing

        def process_output_result(self, message: Message, ctx: Any) -> Any:
            return None if nothing is None else message.replace(parts=nothing)

    model = ScriptedModel(["answer"])
    agent = Agent(
        "a", model=model, memory=memory, input_processors=[Nothing()], output_processors=[Nothing()]
    )
    told = await run(agent, mode, "hello", resource="ana", thread="t")
    assert told.result.text == "answer"
    assert [message.text for message in model.requests[0].messages] == ["hello"]
    stored = (await memory.resource("ana").thread("t").messages()).messages
    assert [message.text for message in stored] == ["hello", "answer"]


@both
async def test_changes_in_place_do_nothing(memory: Memory, mode: str) -> None:
    """Hooks get copies: whatever they do to their arguments, only what they return counts."""

    class Vandal(Processor):
        async def process_input(self, messages: Any, ctx: Any) -> None:
            messages[0].metadata["x"] = 1
            messages.clear()

        async def process_input_step(self, request: Any, ctx: Any) -> None:
            for message in request.messages:
                for part in message.parts:
                    if isinstance(part, ToolPart):
                        part.args.clear()
                        part.output["rows"].clear()
            request.messages.clear()
            request.settings["temperature"] = 9
            for tool in request.tools:
                tool.parameters.clear()
            request.tools.clear()

        async def process_output_step(self, parts: Any, ctx: Any) -> None:
            for part in parts:
                if isinstance(part, ToolPart):
                    part.args["query"] = "changed"
            parts.clear()

        async def process_tool_result(self, part: Any, ctx: Any) -> None:
            part.output["rows"].append("changed")

        async def process_output_result(self, message: Any, ctx: Any) -> None:
            message.parts[1].args["query"] = "changed"
            message.metadata["x"] = 1

    def table(query: str) -> dict[str, Any]:
        """Look something up."""
        return {"rows": [query]}

    model = ScriptedModel([ToolCall("table", {"query": "x"}), "done"])
    vandal = Vandal()
    agent = Agent(
        "a",
        model=model,
        memory=memory,
        tools=[table],
        settings={"temperature": 0},
        input_processors=[vandal],
        output_processors=[vandal],
    )
    prompt = Message.user("hello", metadata={"keep": True})
    told = await run(agent, mode, prompt, resource="ana", thread="t")
    assert prompt.metadata == {"keep": True}
    assert agent.settings == {"temperature": 0}
    for request in model.requests:
        assert request.settings == {"temperature": 0}
        assert request.tools[0].parameters["properties"]
    part = model.requests[1].messages[-1].parts[1]
    assert isinstance(part, ToolPart)
    assert (part.args, part.output) == ({"query": "x"}, {"rows": ["x"]})
    assert told.result.tool_calls[0] == part
    assert told.result.message is not None
    assert told.result.message.metadata == {}


WRONG: list[tuple[str, Any, str]] = [
    ("process_input", 5, "a int, not a sequence of messages"),
    ("process_input", "text", "a str, not a sequence"),
    ("process_input", ["text"], "a sequence with a str in it"),
    ("process_input", [Message.system("x")], "a system message"),
    ("process_input", [Message.user("x", id="1"), Message.user("y", id="1")], "two messages with the id '1'"),
    ("process_input", [Message.user("x", seq=3, id="old")], "the stored message 'old'"),
    ("process_input", [Message.user("x", id="")], "cannot be stored"),
    ("process_input", [Message.user("")], "without content"),
    ("process_input", [Message(parts=["x"])], "cannot be stored"),  # type: ignore[list-item]
    ("process_input_step", [], "a list, not a ModelRequest"),
    ("process_input_step", ModelRequest(messages=["x"]), "a sequence with a str"),  # type: ignore[list-item]
    ("process_input_step", ModelRequest(messages=[], tools=[len]), "builtin"),  # type: ignore[list-item]
    ("process_input_step", ModelRequest(messages=[], instructions=5), "instructions are a int"),  # type: ignore[arg-type]
    ("process_input_step", ModelResponse(parts=("x",)), "a sequence with a str"),  # type: ignore[arg-type]
    ("process_output_stream", 5, "a int, not text"),
    ("process_output_step", "text", "a str, not a sequence"),
    ("process_output_step", [Message.user("x")], "a sequence with a Message"),
    ("process_output_step", [ToolPart(tool_call_id="1", tool_name="x", args={1})], "cannot be stored"),
    ("process_tool_result", "x", "a str, not a ToolPart"),
    ("process_tool_result", ToolPart(tool_call_id="1", tool_name="x"), "of another call"),
    ("process_output_result", "text", "a str, not a Message"),
    ("process_output_result", Message.user("x"), "role 'user'"),
    ("process_output_result", Message.assistant("x", metadata={"x": {1}}), "cannot be stored"),
    ("process_api_error", 5, "a int, not a Retry or a bool"),
    ("process_api_error", Retry(delay=-1), "delay is -1"),
    ("process_api_error", Retry(request=ModelRequest(messages=[])), "has no messages"),
]


@both
@pytest.mark.parametrize(("hook", "value", "message"), WRONG)
async def test_wrong_types(memory: Memory, hook: str, value: Any, message: str, mode: str) -> None:
    """What a hook may not return is an error that names processor, hook and type; nothing is stored."""
    processor = Processor()
    setattr(processor, hook, lambda given, ctx: value)
    last: Any = ModelError("down") if hook == "process_api_error" else "done"
    kind = (
        "input" if hook.startswith("process_input") else "error" if hook == "process_api_error" else "output"
    )
    agent = Agent(
        "a",
        memory=memory,
        model=ScriptedModel([["say", ToolCall("lookup", {"query": "x"})], last]),
        tools=[lookup],
        **{f"{kind}_processors": [processor]},  # type: ignore[arg-type]
    )
    before = await dump(memory)
    with pytest.raises(ProcessorError, match=f"'processor', {hook}: returned .*{message}"):
        await run(agent, mode, "hello", resource="ana", thread="t")
    assert await dump(memory) == before


HANGS = ["process_input", "process_input_step", "process_output_stream", "process_output_step",
         "process_tool_result", "process_output_result", "process_api_error"]  # fmt: skip


@both
@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("hook", HANGS)
async def test_a_hook_that_hangs(memory: Memory, hook: str, blocking: bool, mode: str) -> None:
    """The run's timeout ends it, even if it blocks a thread; what no processor accepted is not stored."""
    processor = Processor()

    async def wait(value: Any, ctx: Any) -> None:
        await asyncio.sleep(5)

    setattr(processor, hook, (lambda value, ctx: time.sleep(1)) if blocking else wait)
    last: Any = ModelError("down") if hook == "process_api_error" else "the answer"
    kind = (
        "input" if hook.startswith("process_input") else "error" if hook == "process_api_error" else "output"
    )
    script = [last] if hook != "process_tool_result" else [ToolCall("lookup", {"query": "x"}), last]
    agent = Agent(
        "a",
        memory=memory,
        model=ScriptedModel(script),
        tools=[lookup],
        **{f"{kind}_processors": [processor]},  # type: ignore[arg-type]
    )
    before = await dump(memory)
    started = time.monotonic()
    told = await run(agent, mode, "hello", resource="ana", thread="t", timeout=0.15)
    assert time.monotonic() - started < 0.9
    assert told.result.finish_reason == "timeout"
    assert "the answer" not in told.result.text + told.text
    after = await dump(memory)
    if kind == "input":
        assert after == before
    assert "the answer" not in repr(after)
    assert "result of x" not in repr(after)


@pytest.mark.parametrize("hook", ["process_output_step", "process_output_result"])
async def test_a_cancelled_run_keeps_nothing_unjudged(memory: Memory, hook: str) -> None:
    """Cancelled while a processor judges, the run stores its input and not the answer, nor what its tools
    noted if the answer as a whole was to be judged."""
    waiting = asyncio.Event()
    processor = Processor()

    async def wait(value: Any, ctx: Any) -> None:
        if ctx.step == 2:
            waiting.set()
            await asyncio.sleep(5)

    setattr(processor, hook, wait)
    note = ToolCall("update_working_memory", {"memory": "# Noted"})
    model = ScriptedModel([note, "the answer"])
    agent = Agent("a", memory=memory, model=model, output_processors=[processor])
    task = asyncio.ensure_future(agent.generate("hello", resource="ana", thread="t", working_memory=True))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    after = repr(await dump(memory))
    assert "the answer" not in after
    assert "hello" in after
    # The first step was accepted; the answer as a whole was not.
    assert ("# Noted" in after) == (hook == "process_output_step")


async def test_a_hook_that_cancels_itself() -> None:
    """A cancellation that is not the run's is a failure of the hook, not an aborted run."""

    async def guard(messages: Any) -> None:
        raise asyncio.CancelledError

    with pytest.raises(ProcessorError, match="raised CancelledError"):
        await Agent("a", model=ScriptedModel(["x"]), input_processors=[guard]).generate("q")

"""Calls that a person must approve: announced together, decided one by one, made at most once."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from inline_snapshot import snapshot

from threadmark import (
    ApprovalError,
    ConfigurationError,
    ConflictError,
    Memory,
    Message,
    NotFoundError,
    RequestContext,
    Speaker,
    ToolContext,
    ToolPart,
    ValidationError,
    tool,
)
from threadmark.agents import Agent, AgentResult, AgentStream
from threadmark.agents.tools import Tool
from threadmark.models.base import ModelRequest
from threadmark.stores.base import MessageChange
from threadmark.testing import ScriptedModel, ToolCall

pytestmark = pytest.mark.anyio

Stored = Callable[..., Awaitable[list[Message]]]
OWNER = {"resource": "ana"}


class Files:
    """A tool that deletes after approval, one that needs none, and what they did."""

    def __init__(self, **options: Any) -> None:
        self.deleted: list[str] = []
        self.by: list[str | None] = []
        self.looked = 0
        self.delete = tool(**{"requires_approval": True, **options})(self._delete())

    def _delete(self) -> Callable[..., str]:
        def delete(context: ToolContext, path: str) -> str:
            self.deleted.append(path)
            self.by.append(context.approved_by)
            return f"deleted {path}"

        return delete

    def look(self) -> str:
        self.looked += 1
        return "seen"

    @property
    def tools(self) -> list[Tool | Callable[..., str]]:
        return [self.delete, self.look]


def make(memory: Memory | None, files: Files, *replies: Any, **options: Any) -> tuple[Agent, ScriptedModel]:
    model = ScriptedModel(list(replies) or [ToolCall("delete", {"path": "/a"}), "Done."])
    return Agent("a", model=model, memory=memory, tools=files.tools, **options), model


async def ask(agent: Agent, **options: Any) -> AgentResult:
    return await agent.generate("go", resource="ana", thread="t", **options)


async def told(stream: AgentStream) -> list[Any]:
    kept = ("tool_call_id", "result", "error", "finish_reason")
    async with stream:
        return [
            (event.type, *[value for name, value in event.to_dict().items() if name in kept])
            async for event in stream
            if not event.type.startswith(("tool-call-input", "tool-call-delta", "text-"))
        ]


async def test_a_call_waits_and_runs_once_approved(memory: Memory, stored: Stored) -> None:
    """Nothing is done before the approval; then the body runs once and the same message goes on."""
    files = Files()
    agent, model = make(memory, files)
    paused = await ask(agent)
    assert (paused.finish_reason, files.deleted, len(model.requests)) == ("suspended", [], 1)
    (call,) = paused.pending
    assert (call.tool_call_id, call.tool_name, call.args, call.kind) == (
        "call-1",
        "delete",
        {"path": "/a"},
        "approval",
    )
    assert call.resume_schema is not None
    assert call.resume_schema["required"] == ["approved"]
    assert len(await stored()) == 2
    result = await agent.approve(paused.run_id, "call-1", resource="ana")
    assert (result.text, result.run_id, result.finish_reason) == ("Done.", paused.run_id, "stop")
    assert (files.deleted, len(model.requests)) == (["/a"], 2)
    assert result.usage.requests == 2
    messages = await stored()
    assert [m.role for m in messages] == ["user", "assistant"]
    assert [part.type for part in messages[1].parts] == ["step", "tool", "step", "text"]
    assert messages[1] == result.message
    (part,) = result.tool_calls
    assert (part.state, part.output) == ("result", "deleted /a")
    assert part.pause is not None
    assert {name: value for name, value in part.pause.items() if name != "at"} == {
        "kind": "approval",
        "decision": "approved",
    }
    run = await memory.resource("ana").run(paused.run_id)
    assert run is not None
    assert (run.status, run.state, run.expires_at) == ("finished", None, None)


async def test_events_of_a_pause_and_of_its_approval(memory: Memory) -> None:
    """All pending calls at once, after the results of the others; one terminal event; no second start."""
    files = Files()
    step = [ToolCall("look"), ToolCall("delete", {"path": "/a"}), ToolCall("delete", {"path": "/b"})]
    agent, _ = make(memory, files, step, "Done.")
    stream = agent.stream("go", resource="ana", thread="t")
    assert await told(stream) == snapshot(
        [
            ("start",),
            ("step-start",),
            ("tool-call", "call-1"),
            ("tool-call", "call-2"),
            ("tool-call", "call-3"),
            ("tool-result", "call-1", "seen"),
            ("tool-call-approval", "call-2"),
            ("tool-call-approval", "call-3"),
            ("suspended", "suspended"),
        ]
    )
    paused = await stream.result()
    assert [call.tool_call_id for call in paused.pending] == ["call-2", "call-3"]
    assert await told(agent.decline_stream(paused.run_id, "call-2", reason="no", resource="ana")) == snapshot(
        [
            ("tool-output-denied", "call-2", "no"),
            ("tool-call-approval", "call-3"),
            ("suspended", "suspended"),
        ]
    )
    assert await told(agent.approve_stream(paused.run_id, "call-3", resource="ana")) == snapshot(
        [
            ("tool-result", "call-3", "deleted /b"),
            ("step-finish", "tool-calls"),
            ("step-start",),
            ("step-finish", "stop"),
            ("finish", "stop"),
        ]
    )


async def test_results_of_the_others_are_stored_while_it_waits(memory: Memory, stored: Stored) -> None:
    """A sibling that needs no approval runs, and its result is in the store before anybody decides."""
    files = Files()
    agent, _ = make(memory, files, [ToolCall("delete", {"path": "/a"}), ToolCall("look")], "Done.")
    await ask(agent)
    (_, answer) = await stored()
    states = {p.tool_name: (p.state, p.output) for p in answer.parts if isinstance(p, ToolPart)}
    assert states == {"delete": ("call", None), "look": ("result", "seen")}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_decisions_come_in_any_order(memory: Memory, order: tuple[int, int]) -> None:
    """The run goes on with the last decision, whichever it is."""
    files = Files()
    agent, _ = make(
        memory, files, [ToolCall("delete", {"path": "/a"}), ToolCall("delete", {"path": "/b"})], "Done."
    )
    paused = await ask(agent)
    first = await agent.approve(paused.run_id, paused.pending[order[0]], resource="ana")
    assert (first.finish_reason, files.deleted) == ("suspended", [])
    assert first.pending == (paused.pending[order[1]],)
    second = await agent.approve(paused.run_id, paused.pending[order[1]], resource="ana")
    assert (second.text, sorted(files.deleted)) == ("Done.", ["/a", "/b"])


async def test_decisions_come_together(memory: Memory) -> None:
    """Several calls are approved with one call."""
    files = Files()
    agent, _ = make(
        memory, files, [ToolCall("delete", {"path": "/a"}), ToolCall("delete", {"path": "/b"})], "Done."
    )
    paused = await ask(agent)
    result = await agent.approve(paused.run_id, paused.pending, resource="ana")
    assert (result.text, sorted(files.deleted)) == ("Done.", ["/a", "/b"])


async def test_declined(memory: Memory) -> None:
    """The body never runs; the model is told the reason, or a default one, and both are stored."""
    for reason, expected in (
        ("Keep it.", "Keep it."),
        (None, "A person declined the call. It was not made."),
    ):
        files = Files()
        agent, model = make(memory, files)
        paused = await ask(agent)
        result = await agent.decline(paused.run_id, "call-1", reason=reason, resource="ana")
        (part,) = result.tool_calls
        assert (files.deleted, result.text, part.state, part.error) == ([], "Done.", "denied", expected)
        assert part.pause is not None
        assert (part.pause["decision"], part.pause.get("reason")) == ("declined", reason)
        sent = model.requests[-1].messages[-1].parts
        assert [p.error for p in sent if isinstance(p, ToolPart)] == [expected]


async def test_edited_arguments(memory: Memory) -> None:
    """The call runs with the edited arguments; both are stored. Edits that do not fit leave it pending."""
    files = Files()
    agent, _ = make(memory, files)
    paused = await ask(agent)
    for wrong in ({"path": 1}, {"paths": "/b"}, {}):
        with pytest.raises(ValidationError, match="path"):
            await agent.approve(paused.run_id, "call-1", args=wrong, resource="ana")
    result = await agent.approve(paused.run_id, "call-1", args={"path": "/b"}, resource="ana")
    (part,) = result.tool_calls
    assert (files.deleted, part.args) == (["/b"], {"path": "/b"})
    assert part.pause is not None
    assert part.pause["args"] == {"path": "/a"}


async def test_edited_arguments_are_for_one_call(memory: Memory) -> None:
    """Edits with several calls, of another type, or no call at all, are refused before anything is read."""
    agent, _ = make(memory, Files())
    for calls, args in ((["a", "b"], {}), ("a", [1]), ([], None), ([1], None)):
        with pytest.raises(ValidationError):
            await agent.approve("r", calls, args=args, resource="ana")  # type: ignore[arg-type]


async def test_the_approver_is_the_verified_speaker(memory: Memory) -> None:
    """Who approved is taken from the request context alone, is stored, and the tool is told."""
    files = Files()
    agent, _ = make(memory, files)
    paused = await ask(agent)
    boss = RequestContext(resource="ana", speaker=Speaker(id="boss"))
    result = await agent.approve(paused.run_id, "call-1", resource="victim", request_context=boss)
    assert files.by == ["boss"]
    assert result.tool_calls[0].pause is not None
    assert result.tool_calls[0].pause["by"] == "boss"


@pytest.mark.parametrize("path", ["/safe", "/etc"])
async def test_a_function_of_the_arguments_decides(memory: Memory, path: str) -> None:
    """`requires_approval` may be a function of the arguments, plain or async, with the context or without."""

    async def with_context(args: dict[str, Any], context: RequestContext) -> bool:
        return bool(args["path"] == context["protected"])

    for rule in (lambda args: args["path"] == "/etc", with_context):
        files = Files(requires_approval=rule)
        agent, _ = make(memory, files, ToolCall("delete", {"path": path}), "Done.")
        result = await ask(agent, request_context=RequestContext(protected="/etc"))
        assert (result.finish_reason == "suspended") == (path == "/etc")
        assert files.deleted == ([] if path == "/etc" else ["/safe"])


async def test_a_rule_of_the_call(memory: Memory) -> None:
    """`require_tool_approval` holds for all tools, or says for which; it cannot lift what a tool requires."""
    for rule, expected in (
        (True, {"look", "delete"}),
        (False, {"delete"}),
        (lambda name, args: name == "look", {"look", "delete"}),
        (lambda name, args, context: False, {"delete"}),
    ):
        agent, _ = make(memory, Files(), [ToolCall("look"), ToolCall("delete", {"path": "/a"})], "Done.")
        result = await ask(agent, require_tool_approval=rule)
        assert {call.tool_name for call in result.pending} == expected
    agent, _ = make(memory, Files(), ToolCall("look"), "Done.", require_tool_approval=True)
    assert len((await ask(agent)).pending) == 1


async def test_a_rule_that_fails_requires_approval(memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    """A predicate that raises counts as "yes", and its error's text goes nowhere."""

    def broken(*_: object) -> bool:
        raise RuntimeError("secret")

    for options in ({"requires_approval": broken}, {"requires_approval": False}):
        files = Files(**options)
        agent, _ = make(memory, files)
        rule = {} if options["requires_approval"] else {"require_tool_approval": broken}
        assert (await ask(agent, **rule)).finish_reason == "suspended"
        assert files.deleted == []
    assert "secret" not in caplog.text


async def test_wrong_arguments_ask_nobody(memory: Memory) -> None:
    """A call whose arguments do not fit is an error for the model, not a question for a person."""
    files = Files()
    agent, _ = make(memory, files, ToolCall("delete", {"path": 7}), "Sorry.")
    result = await ask(agent)
    assert (result.text, result.tool_calls[0].state, files.deleted) == ("Sorry.", "error", [])


async def test_two_approvals_at_once(memory: Memory) -> None:
    """Of many at the same time one runs the tool; the others get a conflict."""
    files = Files()
    agent, _ = make(memory, files)
    paused = await ask(agent)
    results = await asyncio.gather(
        *(agent.approve(paused.run_id, "call-1", resource="ana") for _ in range(8)), return_exceptions=True
    )
    assert files.deleted == ["/a"]
    assert sum(isinstance(result, ConflictError) for result in results) == 7
    assert [r.text for r in results if isinstance(r, AgentResult)] == ["Done."]


async def test_decisions_on_two_calls_at_once(memory: Memory) -> None:
    """Decisions on different calls at the same time are all taken."""
    files = Files()
    calls = [ToolCall("delete", {"path": f"/{n}"}) for n in range(6)]
    agent, _ = make(memory, files, calls, "Done.")
    paused = await ask(agent)
    results = await asyncio.gather(
        *(agent.approve(paused.run_id, call, resource="ana") for call in paused.pending)
    )
    assert sorted(files.deleted) == [f"/{n}" for n in range(6)]
    assert sorted(result.finish_reason for result in results) == ["stop"] + ["suspended"] * 5


async def test_what_cannot_be_approved(memory: Memory) -> None:
    """Foreign, unknown, decided and finished each have their error, and nothing is run."""
    files = Files()
    agent, _ = make(
        memory, files, [ToolCall("delete", {"path": "/a"}), ToolCall("delete", {"path": "/b"})], "Done."
    )
    paused = await ask(agent)
    run = paused.run_id
    other = Agent("b", model=ScriptedModel([]), memory=memory, tools=files.tools)
    for who, run_id, call, owner, expected in (
        (agent, run, "call-1", "bob", NotFoundError),
        (agent, "nowhere", "call-1", "ana", NotFoundError),
        (agent, run, "call-9", "ana", NotFoundError),
        (other, run, "call-1", "ana", NotFoundError),
        (agent, run, "call-1", None, ValidationError),
        (agent, "", "call-1", "ana", ValidationError),
    ):
        with pytest.raises(expected):
            await who.approve(run_id, call, resource=owner)
    with pytest.raises(ConfigurationError, match="unknown option"):
        await agent.approve(run, "call-1", owner="ana")  # type: ignore[call-arg]
    with pytest.raises(ApprovalError, match="approve"):
        await agent.resume(run, {"approved": True}, resource="ana")
    await agent.approve(run, "call-1", resource="ana")
    with pytest.raises(ApprovalError, match="decided already"):
        await agent.decline(run, "call-1", resource="ana")
    await agent.decline(run, "call-2", resource="ana")
    with pytest.raises(ApprovalError, match="over"):
        await agent.approve(run, "call-1", resource="ana")
    assert files.deleted == ["/a"]


async def test_an_approval_is_for_the_arguments_that_were_shown(memory: Memory) -> None:
    """Arguments that changed in the store, or differ from those shown to the approver, are refused."""
    files = Files()
    agent, _ = make(memory, files)
    paused = await ask(agent)
    shown = dataclasses.replace(paused.pending[0], digest="0" * 32)
    with pytest.raises(ApprovalError, match="not those that were shown"):
        await agent.approve(paused.run_id, shown, resource="ana")
    assert paused.message is not None
    parts = [
        dataclasses.replace(p, args={"path": "/"}) if isinstance(p, ToolPart) else p
        for p in paused.message.parts
    ]
    change = MessageChange(id=paused.message.id, parts=tuple(parts))
    await memory.store.update_messages("ana", "t", [change], memory.now())
    with pytest.raises(ApprovalError, match="not those that were shown"):
        await agent.approve(paused.run_id, "call-1", resource="ana")
    assert files.deleted == []


async def test_a_tool_that_is_gone_leaves_the_call_pending(memory: Memory) -> None:
    """A new version of the program without the tool, or with another signature, refuses and stays pending."""
    files = Files()
    agent, model = make(memory, files)
    paused = await ask(agent)

    @tool(requires_approval=True)
    def delete(folder: str) -> str:
        return folder

    for tools, expected in (([], ConfigurationError), ([delete], ValidationError)):
        with pytest.raises(expected):
            await Agent("a", model=model, memory=memory, tools=tools).approve(
                paused.run_id, "call-1", resource="ana"
            )
    assert (await agent.approve(paused.run_id, "call-1", resource="ana")).text == "Done."


@pytest.mark.parametrize("options", [{}, {"read_only": True}, {"last_messages": 0}])
async def test_nowhere_to_wait(memory: Memory, options: dict[str, Any]) -> None:
    """Without storage the pause itself fails, and no tool of the step is run."""
    files = Files()
    agent, _ = make(memory, files, [ToolCall("look"), ToolCall("delete", {"path": "/a"})], "Done.")
    where: dict[str, Any] = {"resource": "ana", "thread": "t"} if options else {}
    with pytest.raises(ConfigurationError, match="wait for a person"):
        await agent.generate("go", **where, **options)
    assert (files.deleted, files.looked) == ([], 0)


async def test_later_steps_may_pause_again(memory: Memory, stored: Stored) -> None:
    """Each pause of a run has its own decision, and all of it is one message."""
    files = Files()
    agent, _ = make(
        memory, files, ToolCall("delete", {"path": "/a"}), ToolCall("delete", {"path": "/b"}), "Done."
    )
    first = await ask(agent)
    second = await agent.approve(first.run_id, "call-1", resource="ana")
    assert (second.finish_reason, second.pending[0].args, files.deleted) == (
        "suspended",
        {"path": "/b"},
        ["/a"],
    )
    third = await agent.approve(first.run_id, "call-2", resource="ana")
    assert (third.text, files.deleted, third.usage.requests) == ("Done.", ["/a", "/b"], 3)
    assert [step.number for step in third.steps] == [1, 2, 3]
    assert len(await stored()) == 2


async def test_an_id_that_comes_twice(memory: Memory) -> None:
    """Where a model gives two calls one id, a late decision on the first cannot hit the second."""
    files = Files()
    calls = [ToolCall("delete", {"path": path}, id="call_0") for path in ("/a", "/b")]
    agent, _ = make(memory, files, *calls, "Done.")
    first = await ask(agent)
    second = await agent.approve(first.run_id, "call_0", resource="ana")
    with pytest.raises(ApprovalError, match="PendingCall"):
        await agent.approve(first.run_id, "call_0", resource="ana")
    with pytest.raises(ApprovalError, match="not those that were shown"):
        await agent.approve(first.run_id, first.pending[0], resource="ana")
    assert files.deleted == ["/a"]
    assert (await agent.approve(first.run_id, second.pending[0], resource="ana")).text == "Done."


async def test_the_step_limit_counts_across_pauses(memory: Memory) -> None:
    """A run that is at its limit when it goes on ends with the tools' results, and "max-steps"."""
    files = Files()
    agent, model = make(memory, files, ToolCall("delete", {"path": "/a"}))
    paused = await ask(agent, max_steps=1)
    result = await agent.approve(paused.run_id, "call-1", resource="ana")
    assert (result.finish_reason, files.deleted, len(model.requests)) == ("max-steps", ["/a"], 1)


async def test_talking_on_while_a_call_waits(memory: Memory, stored: Stored) -> None:
    """The model is told that the call waits. Its result comes in its place, the answer at the end."""
    files = Files()
    asked: list[ModelRequest] = []

    def reply(request: ModelRequest) -> Any:
        asked.append(request)
        return [ToolCall("delete", {"path": "/a"}), "Of course.", "Deleted, as I said."][len(asked) - 1]

    agent = Agent("a", model=ScriptedModel(reply), memory=memory, tools=files.tools)
    paused = await ask(agent)
    between = await agent.generate("Are you there?", resource="ana", thread="t")
    assert between.text == "Of course."
    (seen,) = [p for m in asked[1].messages for p in m.parts if isinstance(p, ToolPart)]
    assert (seen.state, "waits for a person's approval" in (seen.error or "")) == ("interrupted", True)
    result = await agent.approve(paused.run_id, "call-1", resource="ana")
    assert (result.text, files.deleted, result.finish_reason) == ("Deleted, as I said.", ["/a"], "stop")
    roles = [(m.role, m.text, m.run_id == paused.run_id) for m in await stored()]
    assert roles == [
        ("user", "go", True),
        ("assistant", "", True),
        ("user", "Are you there?", False),
        ("assistant", "Of course.", False),
        ("assistant", "Deleted, as I said.", True),
    ]
    shown = [(m.role, [p.state for p in m.parts if isinstance(p, ToolPart)]) for m in asked[2].messages]
    assert shown == [("user", []), ("assistant", ["result"]), ("user", []), ("assistant", []), ("user", [])]
    assert "outcomes" in asked[2].messages[-1].text
    assert [m.text for m in result.messages] == ["", "Deleted, as I said."]


async def test_synchronous_twins(memory: Memory) -> None:
    """`approve_sync`, `decline_sync` and their streams do the same for synchronous code."""
    files = Files()

    def work() -> list[Any]:
        out: list[Any] = []
        for name in ("approve", "decline"):
            agent, _ = make(memory, files)
            paused = agent.generate_sync("go", resource="ana", thread="t")
            out.append(getattr(agent, f"{name}_sync")(paused.run_id, "call-1", resource="ana").text)
            agent, _ = make(memory, files)
            paused = agent.generate_sync("go", resource="ana", thread="t")
            with getattr(agent, f"{name}_stream_sync")(paused.run_id, "call-1", resource="ana") as stream:
                out.append([event.type for event in stream][-1])
        return out

    assert await asyncio.to_thread(work) == ["Done.", "finish", "Done.", "finish"]
    assert files.deleted == ["/a", "/a"]


async def test_a_pause_is_small(memory: Memory) -> None:
    """Beside the messages a pause writes one row of at most 2 kB."""
    files = Files()
    agent, _ = make(memory, files, [ToolCall("delete", {"path": f"/{n}"}) for n in range(5)], "Done.")
    context = RequestContext(tier="gold", locale="de", features=["a", "b"], limit=7)
    paused = await ask(agent, request_context=context, system="Be brief.", max_steps=4)

    def size(db: Any) -> int:
        (row,) = db.execute("SELECT * FROM runs WHERE id = ?", (paused.run_id,))
        return sum(len(str(value)) for value in row if value is not None)

    assert await memory.store._engine.read(size) <= 2000  # type: ignore[attr-defined]


async def test_cancelled_while_the_tool_runs(memory: Memory, stored: Stored) -> None:
    """A run cancelled after the approval is over: its call may have had effects, and is not made again."""
    started = asyncio.Event()
    runs: list[str] = []

    @tool(requires_approval=True)
    async def delete(path: str) -> str:
        runs.append(path)
        started.set()
        await asyncio.sleep(60)
        return "late"

    agent = Agent(
        "a", model=ScriptedModel([ToolCall("delete", {"path": "/a"})]), memory=memory, tools=[delete]
    )
    paused = await ask(agent)
    task = asyncio.create_task(agent.approve(paused.run_id, "call-1", resource="ana"))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ApprovalError):
        await agent.approve(paused.run_id, "call-1", resource="ana")
    (_, answer) = await stored()
    assert [p.state for p in answer.parts if isinstance(p, ToolPart)] == ["interrupted"]
    assert runs == ["/a"]

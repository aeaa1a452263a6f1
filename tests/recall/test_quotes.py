"""What memory's own tools quote: shown to the model, and never stored; and what a prompt holds already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from threadmark import (
    Agent,
    Hooks,
    Memory,
    Message,
    ObservationalMemory,
    ObservationSettings,
    SemanticRecall,
    SkipTool,
    TextPart,
    ToolPart,
    tool,
)
from threadmark.memory.observe._types import ObserverResult
from threadmark.stores.base import NewObservation, Source
from threadmark.testing import ScriptedModel, ToolCall

pytestmark = pytest.mark.anyio
LEXICAL = SemanticRecall(mode="lexical")
SECRET = "my passphrase is zebrafinch"


@tool(requires_approval=True)
def refund(order_id: str) -> str:
    """Refund an order."""
    return f"refunded {order_id}"


class Notes:
    """An observer that makes one note of each message."""

    version = "notes"

    async def observe(self, batch: Any) -> ObserverResult:
        rows = [
            NewObservation(
                kind="fact",
                priority="high",
                text="a note",
                made_by="observer",
                origin="user",
                sources=(Source(message_id=message.id),),
            )
            for message in batch.messages
        ]
        return ObserverResult(rows=tuple(rows))


def outcomes(messages: Any, name: str = "recall") -> list[Any]:
    return [
        part.output
        for message in messages
        for part in message.parts
        if isinstance(part, ToolPart) and part.tool_name == name
    ]


async def suspended(memory: Memory, *calls: dict[str, Any]) -> tuple[Agent, ScriptedModel, Any]:
    """A run that has searched, and waits for approval of a refund."""
    await memory.resource("ana").thread("diary").save([Message.user(SECRET, id="sec")])
    model = ScriptedModel(
        [*(ToolCall("recall", args) for args in calls), ToolCall("refund", {"order_id": "7"}), "Done."]
    )
    agent = Agent("desk", model=model, memory=memory, tools=[refund], max_steps=9)
    return agent, model, await agent.generate("Refund it", resource="ana", thread="t")


async def test_a_run_that_waits_stores_no_quotes() -> None:
    """A paused run holds ids of what was quoted: erased words are gone, also after it is cancelled."""
    async with Memory("sqlite://", semantic_recall=LEXICAL) as memory:
        agent, _, result = await suspended(memory, {"query": "passphrase"})
        ana = memory.resource("ana")
        assert result.finish_reason == "suspended"
        assert outcomes(await ana.thread("t").messages()) == [{"threadmark.recall": ["sec"]}]
        assert [message.id for message in await ana.matches("zebrafinch")] == ["sec"]
        await ana.thread("diary").erase()
        assert (await ana.matches("zebrafinch")).total == 0
        await agent.runs.cancel(result.run_id, resource="ana")
        assert (await ana.matches("zebrafinch")).total == 0
        assert "zebrafinch" not in repr(await ana.thread("t").messages())


async def test_quotes_go_to_no_other_owner() -> None:
    """Who is given the thread of a run that waits does not get what the run had found elsewhere."""
    async with Memory("sqlite://", semantic_recall=LEXICAL) as memory:
        await suspended(memory, {"query": "passphrase"})
        await memory.admin.clone("t", to="bob")
        await memory.admin.transfer("t", to="eve")
        for name in ("bob", "eve"):
            assert (await memory.resource(name).matches("zebrafinch")).total == 0


async def test_a_run_that_goes_on_sees_its_quotes_again() -> None:
    """Each kind of outcome is there again for the model, and again only its ids are stored."""
    async with Memory("sqlite://", semantic_recall=LEXICAL) as memory:
        agent, model, result = await suspended(
            memory,
            {"query": "passphrase"},
            {"mode": "list", "query": "passphrase"},
            {"mode": "count", "query": "passphrase"},
            {"message_id": "sec", "offset": 3},
        )
        before = outcomes(model.requests[-1].messages)
        assert [bool(item) for item in before] == [True] * 4
        done = await agent.approve(result.run_id, result.pending[0], resource="ana")
        assert done.finish_reason == "stop"
        assert outcomes(model.requests[-1].messages) == before
        stored = await memory.resource("ana").thread("t").messages()
        assert "zebrafinch" not in repr(stored)
        assert outcomes(stored, "refund") == ["refunded 7"]
        assert [item["threadmark.recall"] for item in outcomes(stored)] == [["sec"], ["sec"], [], ["sec"]]


async def test_what_was_deleted_meanwhile_is_not_quoted_again() -> None:
    """A run that goes on is told that something is gone, and not what."""
    async with Memory("sqlite://", semantic_recall=LEXICAL) as memory:
        agent, model, result = await suspended(memory, {"query": "passphrase"}, {"message_id": "sec"})
        await memory.resource("ana").thread("diary").erase()
        await agent.approve(result.run_id, result.pending[0], resource="ana")
        shown = outcomes(model.requests[-1].messages)
        assert shown == [{"messages": [], "note": "What was deleted since is left out."}] * 2


async def test_what_a_hook_kept_from_the_model_is_not_shown_when_the_run_goes_on() -> None:
    """A call that a hook answered in the tool's place quotes nothing, and goes on quoting nothing."""

    def skip(context: Any, args: dict[str, Any]) -> SkipTool | None:
        return SkipTool("Not now.") if context.tool_name == "recall" else None

    async with Memory("sqlite://", semantic_recall=LEXICAL) as memory:
        await memory.resource("ana").thread("diary").save([Message.user(SECRET, id="sec")])
        calls = [ToolCall("recall", {"query": "passphrase"}), ToolCall("recall", {"message_id": "sec"})]
        model = ScriptedModel([*calls, ToolCall("refund", {"order_id": "7"}), "Done."])
        agent = Agent("desk", model=model, memory=memory, tools=[refund], hooks=Hooks(before_tool=skip))
        result = await agent.generate("Refund it", resource="ana", thread="t")
        await agent.approve(result.run_id, result.pending[0], resource="ana")
        assert outcomes(model.requests[-1].messages) == [{"messages": []}] * 2


async def test_a_users_tool_of_the_same_name_keeps_its_outcome(tmp_path: Path) -> None:
    """Without memory's own tool, `recall` is the user's, and is stored and shown like any other."""

    def recall(product: str) -> dict[str, str]:
        """Product recalls of a manufacturer."""
        return {"recall_number": "R-77", "product": product}

    url = f"sqlite:///{tmp_path / 'memory.db'}"
    made = {"recall_number": "R-77", "product": "kiln"}
    model = ScriptedModel(
        [ToolCall("recall", {"product": "kiln"}), ToolCall("refund", {"order_id": "7"}), "R-77.", "R-77."]
    )
    async with Memory(url, semantic_recall=SemanticRecall(mode="lexical", tool=False)) as memory:
        agent = Agent("desk", model=model, memory=memory, tools=[recall, refund])
        result = await agent.generate("Is my kiln recalled?", resource="ana", thread="t")
        assert outcomes(await memory.resource("ana").thread("t").messages()) == [made]
    # Whoever goes on may have another tool of that name: memory's.
    async with Memory(url, semantic_recall=LEXICAL) as memory:
        agent = Agent("desk", model=model, memory=memory, tools=[refund])
        await agent.approve(result.run_id, result.pending[0], resource="ana")
        assert outcomes(await memory.resource("ana").thread("t").messages()) == [made]
        await agent.generate("Which number?", resource="ana", thread="t")
        assert outcomes(model.requests[-1].messages) == [made]


async def test_the_tool_for_sources_stores_no_quotes_in_a_run_that_waits() -> None:
    """What stands behind a note is shown again when the run goes on, and stored at no time."""
    observing = ObservationalMemory(observer=Notes(), retrieval=True)
    async with Memory("sqlite://", observational_memory=observing) as memory:
        thread = memory.resource("ana").thread("t")
        await thread.save([Message.user(SECRET, id="sec"), Message.assistant("Noted.", id="a1")])
        await thread.observations.update(force=True)
        row = (await thread.observations.list(view="live")).observations[0]
        model = ScriptedModel(
            [ToolCall("recall_source", {"id": row.id}), ToolCall("refund", {"order_id": "7"}), "Done."]
        )
        agent = Agent("desk", model=model, memory=memory, tools=[refund])
        result = await agent.generate("Refund it", resource="ana", thread="t")
        before = outcomes(model.requests[-1].messages, "recall_source")
        assert SECRET in repr(before)
        stored = outcomes(await thread.messages(), "recall_source")
        assert stored == [{"id": row.id, "threadmark.recall": ["sec"]}]
        await agent.approve(result.run_id, result.pending[0], resource="ana")
        assert outcomes(model.requests[-1].messages, "recall_source") == before
        assert outcomes(await thread.messages(), "recall_source") == stored


async def test_an_edit_does_not_hide_what_notes_cover() -> None:
    """An early message that is shown again after an edit excludes itself, not all that follows it."""
    observing = ObservationalMemory(
        observer=Notes(),
        observation=ObservationSettings(message_tokens=60, buffer_tokens=20, buffer_activation=1.0),
    )
    async with Memory("sqlite://", semantic_recall=LEXICAL, observational_memory=observing) as memory:
        thread = memory.resource("ana").thread("t")
        said = ["The weather is nice.", "I paid Ostrowski for the repair of the kiln.", "Something else."]
        said += [f"And something else altogether, long enough to fill a window {n}" for n in range(4)]
        await thread.save([Message.user(text, id=f"m{n}") for n, text in enumerate(said)])
        await thread.observations.update(force=True)
        agent = Agent("desk", model=ScriptedModel(["Yes."] * 3), memory=memory)
        for n in range(2):
            await agent.generate(f"Whom did I pay for the kiln {n}?", resource="ana", thread="t")
            await memory.settled()
        await thread.update_message("m0", parts=[TextPart("The weather is nice; I paid Ostrowski.")])
        result = await agent.generate("Whom did I pay for the kiln?", resource="ana", thread="t")
        shown = [id_ for block in result.context.blocks if block.kind == "history" for id_ in block.sources]
        found = [id_ for block in result.context.blocks if block.kind == "recalled" for id_ in block.sources]
        assert "m0" in shown
        assert "m1" in found
        assert not set(shown) & set(found)


@pytest.mark.parametrize("limit", [None, 4000])
async def test_a_question_asked_again_does_not_recall_the_answer_it_had(limit: int | None) -> None:
    """Neither the answer that is being replaced nor what followed it is recalled, as a hit or a neighbour."""
    recall = SemanticRecall(mode="lexical", window=3)
    async with Memory(
        "sqlite://", semantic_recall=recall, max_context_tokens=limit, last_messages=1
    ) as memory:
        agent = Agent("desk", model=ScriptedModel(["The kiln costs 5 euros.", "Yes.", "6."]), memory=memory)
        thread = memory.resource("ana").thread("t")
        await thread.save([Message.user("The kiln is blue.", id="q0"), Message.assistant("Nice.", id="a0")])
        question = Message.user("What does the kiln cost?", id="q1")
        await agent.generate([question], resource="ana", thread="t")
        await agent.generate("Is the kiln cheap?", resource="ana", thread="t")
        result = await agent.generate([question], resource="ana", thread="t")
        found = [id_ for block in result.context.blocks if block.kind == "recalled" for id_ in block.sources]
        assert found == ["q0"]


async def test_most_hits_of_a_search_hold_with_a_budget_too() -> None:
    """The greatest `top_k`, and more to make up for what the budget leaves out, is still a search."""
    recall = SemanticRecall(mode="lexical", top_k=1000)
    async with Memory("sqlite://", semantic_recall=recall, max_context_tokens=4000) as memory:
        ana = memory.resource("ana")
        await ana.thread("diary").save([Message.user("The kiln is blue.", id="k")])
        await ana.thread("t").save([Message.user("Hello."), Message.assistant("Hello.")])
        agent = Agent("desk", model=ScriptedModel(["Blue."]), memory=memory)
        result = await agent.generate("Which colour is the kiln?", resource="ana", thread="t")
        assert any("k" in block.sources for block in result.context.blocks if block.kind == "recalled")

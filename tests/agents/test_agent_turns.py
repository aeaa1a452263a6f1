"""Turns with memory: what is stored, what the next prompt holds, and whose it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from threadmark import (
    ConfigurationError,
    Memory,
    Message,
    Speaker,
    ThreadSpec,
    ValidationError,
)
from threadmark.agents import Agent, RequestContext
from threadmark.models.base import ModelRequest
from threadmark.testing import ScriptedModel, ToolCall

pytestmark = pytest.mark.anyio

Stored = Callable[..., Awaitable[list[Message]]]
Rows = Callable[[], Awaitable[dict[str, int]]]


def echo(request: ModelRequest) -> str:
    return f"echo {request.messages[-1].text}"


def asked(model: ScriptedModel, index: int = -1) -> list[tuple[str, str]]:
    """The messages of a request, as role and text."""
    return [(message.role, message.text) for message in model.requests[index].messages]


async def test_a_turn_is_remembered(memory: Memory, stored: Stored) -> None:
    """A turn stores the user's message and one answer; the next prompt has both, then the new message."""
    model = ScriptedModel(["Noted.", "Blue."])
    agent = Agent("support", instructions="Be kind.", model=model, memory=memory)
    first = await agent.generate("My colour is blue.", resource="ana", thread="t")
    second = await agent.generate("Which is it?", resource="ana", thread="t")
    assert (first.text, second.text) == ("Noted.", "Blue.")
    assert asked(model) == [("user", "My colour is blue."), ("assistant", "Noted."), ("user", "Which is it?")]
    assert [request.instructions for request in model.requests] == ["Be kind.", "Be kind."]
    messages = await stored()
    assert [(m.role, m.text, m.seq) for m in messages] == [
        ("user", "My colour is blue.", 1),
        ("assistant", "Noted.", 2),
        ("user", "Which is it?", 3),
        ("assistant", "Blue.", 4),
    ]
    assert len({message.id for message in messages}) == 4
    assert all(message.created_at is not None for message in messages)


async def test_the_result_tells_the_whole_turn(memory: Memory, stored: Stored) -> None:
    """The result holds ids, the messages as stored, usage summed over the steps, and the context report."""
    model = ScriptedModel([["Let me add.", ToolCall("add", {"a": 1, "b": 2})], "Three."])
    agent = Agent("sums", instructions="Add.", model=model, memory=memory, tools=[add])
    result = await agent.generate("1 + 2?", resource="ana", thread="t")
    assert (result.agent, result.resource_id, result.thread_id) == ("sums", "ana", "t")
    assert (result.finish_reason, result.replayed) == ("stop", False)
    assert result.text == "Let me add.Three."
    assert result.usage.requests == 2
    assert result.usage == result.steps[0].usage + result.steps[1].usage
    assert [step.number for step in result.steps] == [1, 2]
    assert [step.text for step in result.steps] == ["Let me add.", "Three."]
    assert [step.finish_reason for step in result.steps] == ["tool-calls", "stop"]
    assert (
        [call.output for call in result.tool_calls] == [3] == [c.output for c in result.steps[0].tool_calls]
    )
    assert list(result.messages) == await stored()
    assert result.message == result.messages[-1]
    assert [block.kind for block in result.context.blocks] == ["instructions", "tools", "input"]
    assert result.context.blocks[-1].sources == (result.messages[0].id,)
    run = await memory.resource("ana").run(result.run_id)
    assert run is not None
    assert (run.agent, run.status, run.finish_reason, run.usage) == ("sums", "finished", "stop", result.usage)


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def test_one_assistant_message_per_turn(memory: Memory, stored: Stored) -> None:
    """All steps, calls and results of a turn are parts of one message, stored once."""
    model = ScriptedModel([ToolCall("add", {"a": 1, "b": 2}), ToolCall("add", {"a": 3, "b": 3}), "Six."])
    agent = Agent("sums", model=model, memory=memory, tools=[add])
    await agent.generate("Sum it.", resource="ana", thread="t")
    user, answer = await stored()
    assert [part.type for part in answer.parts] == ["step", "tool", "step", "tool", "step", "text"]
    assert (user.run_id, answer.run_id) == (answer.run_id, user.run_id)
    # On the way the model saw its own earlier steps, with their outcomes.
    assert [part.type for part in model.requests[2].messages[-1].parts] == ["step", "tool", "step", "tool"]


async def test_the_same_text_twice_is_two_messages(memory: Memory, stored: Stored) -> None:
    """Text without an id is always a new message."""
    agent = Agent("a", model=ScriptedModel(echo), memory=memory)
    for _ in range(2):
        await agent.generate("hi", resource="ana", thread="t")
    assert [message.text for message in await stored()] == ["hi", "echo hi"] * 2


# -- ids and ownership -------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [{"resource": "ana"}, {"thread": "t"}])
async def test_resource_and_thread_go_together(memory: Memory, rows: Rows, ids: dict[str, str]) -> None:
    """One without the other fails before any model call and stores nothing; streams raise at the call."""
    model = ScriptedModel(echo)
    agent = Agent("a", model=model, memory=memory)
    with pytest.raises(ValidationError, match="together"):
        await agent.generate("hi", **ids)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="together"):
        agent.stream("hi", **ids)  # type: ignore[arg-type]
    assert model.requests == []
    assert await rows() == {"threads": 0, "messages": 0, "runs": 0}


async def test_without_ids_nothing_is_read_or_written(memory: Memory, rows: Rows) -> None:
    """An agent with memory, called without ids, answers from the prompt alone."""
    model = ScriptedModel(echo)
    agent = Agent("a", model=model, memory=memory)
    await agent.generate("remembered", resource="ana", thread="t")
    before = await rows()
    result = await agent.generate("alone")
    assert (result.text, result.thread_id, result.resource_id) == ("echo alone", None, None)
    assert [message.text for message in result.messages] == ["alone", "echo alone"]
    assert asked(model) == [("user", "alone")]
    assert await rows() == before


async def test_ids_need_a_memory() -> None:
    """Ids given to an agent without memory are a configuration error, not ignored."""
    model = ScriptedModel(echo)
    with pytest.raises(ConfigurationError, match="has no memory"):
        await Agent("a", model=model).generate("hi", resource="ana", thread="t")
    assert model.requests == []


@pytest.mark.parametrize("name", ["thread_id", "resource_id", "lastMessages", "temperature"])
async def test_unknown_keywords_are_named(name: str) -> None:
    """An unknown keyword is an error that names it, with or without memory and ids."""
    agent = Agent("a", model=ScriptedModel(echo))
    with pytest.raises(ConfigurationError, match=name):
        await agent.generate("hi", **{name: 1})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=name):
        agent.stream("hi", **{name: 1})  # type: ignore[arg-type]


async def test_a_foreign_thread_is_as_good_as_none(memory: Memory, stored: Stored) -> None:
    """A thread id that another resource uses is a new thread of the caller's; the other's is untouched."""
    model = ScriptedModel(echo)
    agent = Agent("a", model=model, memory=memory)
    await agent.generate("ana's secret", resource="ana", thread="t")
    await agent.generate("ben", resource="ben", thread="t")
    assert asked(model) == [("user", "ben")]
    assert [message.text for message in await stored("t", "ana")] == ["ana's secret", "echo ana's secret"]
    assert [message.text for message in await stored("t", "ben")] == ["ben", "echo ben"]


async def test_a_thread_object_of_another_resource_is_refused(memory: Memory) -> None:
    """The error names neither the owner nor anything of theirs, and no model is called."""
    model = ScriptedModel(echo)
    thread = await memory.resource("ana-the-owner").threads.create(id="t")
    with pytest.raises(ValidationError) as caught:
        await Agent("a", model=model, memory=memory).generate("hi", resource="ben", thread=thread)
    assert "ana" not in str(caught.value)
    assert model.requests == []


async def test_a_message_of_another_thread_is_refused(memory: Memory, rows: Rows) -> None:
    """An input message that says it belongs to another thread stops the run before the model."""
    model = ScriptedModel(echo)
    agent = Agent("a", model=model, memory=memory)
    with pytest.raises(ValidationError, match="another thread"):
        await agent.generate(Message(text="hi", thread_id="other"), resource="ana", thread="t")
    assert model.requests == []
    assert await rows() == {"threads": 0, "messages": 0, "runs": 0}


async def test_the_request_context_pins_the_tenant(memory: Memory, stored: Stored, rows: Rows) -> None:
    """Verified ids win over those of the call, whatever form the call's have."""
    agent = Agent("a", model=ScriptedModel(echo), memory=memory)
    context = RequestContext(resource="ana", thread="t")
    result = await agent.generate("hi", resource="eve", thread="x", request_context=context)
    assert (result.resource_id, result.thread_id) == ("ana", "t")
    assert [message.text for message in await stored()] == ["hi", "echo hi"]
    assert await stored("x", "eve") == []
    half = RequestContext(resource="ana")
    result = await agent.generate("hi", resource="eve", thread="t", request_context=half)
    assert (result.resource_id, result.thread_id) == ("ana", "t")
    assert (await rows())["threads"] == 1
    with pytest.raises(ValidationError):
        await agent.generate("hi", thread="t", request_context=RequestContext(thread=""))
    with pytest.raises(ValidationError, match="together"):
        await agent.generate("hi", request_context=half)


async def test_a_new_thread_gets_title_and_metadata(memory: Memory) -> None:
    """Title and metadata are set on creation; later metadata is merged, and a later title is not used."""
    agent = Agent("a", model=ScriptedModel(echo), memory=memory)
    await agent.generate("hi", resource="ana", thread={"id": "t", "title": "First", "metadata": {"a": 1}})
    await agent.generate("hi", resource="ana", thread=ThreadSpec(id="t", title="Second", metadata={"b": 2}))
    await agent.generate("hi", resource="ana", thread="t")
    thread = await memory.resource("ana").threads.get("t")
    assert thread is not None
    assert (thread.title, thread.metadata, thread.message_count) == ("First", {"a": 1, "b": 2}, 6)


async def test_memory_chosen_per_request() -> None:
    """Two tiers with the same ids never see each other; the choice is made once per run."""
    memories = {"free": Memory("sqlite://"), "pro": Memory("sqlite://")}
    chosen: list[str] = []

    async def choose(context: RequestContext) -> Memory:
        chosen.append(context["tier"])
        return memories[context["tier"]]

    model = ScriptedModel(
        lambda request: [ToolCall("add", {"a": 1, "b": 1})] if is_first(request) else "done"
    )
    agent = Agent("a", model=model, memory=choose, tools=[add])
    for tier in ("free", "pro"):
        await agent.generate(tier, resource="u", thread="t", request_context=RequestContext(tier=tier))
    assert chosen == ["free", "pro"]
    for tier, memory in memories.items():
        page = await memory.resource("u").thread("t").messages()
        assert [message.text for message in page] == [tier, "done"]
        await memory.aclose()


def is_first(request: ModelRequest) -> bool:
    return request.messages[-1].role == "user"


async def test_every_dynamic_part_is_resolved_once() -> None:
    """Instructions, model, tools and memory as functions are each called once in a run of two steps."""
    calls: list[str] = []
    model = ScriptedModel([ToolCall("add", {"a": 1, "b": 1}), "done"])

    def note(name: str, value: object) -> Callable[[RequestContext], object]:
        def get(context: RequestContext) -> object:
            calls.append(f"{name} for {context['who']}")
            return value

        return get

    memory = Memory("sqlite://")
    agent = Agent(
        "a",
        instructions=note("instructions", "Be brief."),  # type: ignore[arg-type]
        model=note("model", model),  # type: ignore[arg-type]
        tools=note("tools", [add]),  # type: ignore[arg-type]
        memory=note("memory", memory),  # type: ignore[arg-type]
    )
    await agent.generate("hi", resource="u", thread="t", request_context=RequestContext(who="ana"))
    assert sorted(calls) == [f"{name} for ana" for name in ("instructions", "memory", "model", "tools")]
    assert model.requests[0].instructions == "Be brief."
    await memory.aclose()


async def test_a_missing_context_field_fails_before_the_model() -> None:
    """What a dynamic part needs of the request context and does not find is named."""
    model = ScriptedModel(echo)
    agent = Agent("a", instructions=lambda context: f"Tier {context['tier']}", model=model)
    with pytest.raises(ValidationError, match="'tier'"):
        await agent.generate("hi", request_context=RequestContext(plan="pro"))
    assert model.requests == []


# -- what is not stored ------------------------------------------------------------------------------


async def test_read_only_writes_nothing(memory: Memory, rows: Rows) -> None:
    """`read_only` loads history and writes nothing at all, not even the thread."""
    model = ScriptedModel(echo)
    agent = Agent("a", model=model, memory=memory)
    await agent.generate("unknown thread", resource="ana", thread="t", read_only=True)
    assert await rows() == {"threads": 0, "messages": 0, "runs": 0}
    await agent.generate("one", resource="ana", thread="t")
    before = await rows()
    result = await agent.generate("two", resource="ana", thread="t", read_only=True)
    assert asked(model) == [("user", "one"), ("assistant", "echo one"), ("user", "two")]
    assert [message.text for message in result.messages] == ["two", "echo two"]
    assert await rows() == before


async def test_history_switched_off_writes_nothing(memory: Memory, rows: Rows) -> None:
    """With `last_messages=False` no text of the turn is loaded or stored."""
    model = ScriptedModel(echo)
    agent = Agent("a", model=model, memory=memory)
    await agent.generate("one", resource="ana", thread="t")
    before = await rows()
    await agent.generate("private", resource="ana", thread="t", last_messages=False)
    assert asked(model) == [("user", "private")]
    assert await rows() == before


async def test_context_messages_are_for_this_call(memory: Memory, stored: Stored) -> None:
    """Context messages come after history and before the new message, and are never stored."""
    model = ScriptedModel(echo)
    agent = Agent("a", model=model, memory=memory)
    await agent.generate("one", resource="ana", thread="t")
    result = await agent.generate(
        "two", resource="ana", thread="t", context=["page: /pricing", Message.assistant("noted")]
    )
    assert asked(model) == [
        ("user", "one"),
        ("assistant", "echo one"),
        ("user", "page: /pricing"),
        ("assistant", "noted"),
        ("user", "two"),
    ]
    assert [block.kind for block in result.context.blocks] == ["history", "context", "input"]
    assert [message.text for message in await stored()] == ["one", "echo one", "two", "echo two"]


async def test_instructions_of_a_call(memory: Memory, stored: Stored) -> None:
    """A call's instructions replace, its system text and system messages add; none of them is stored."""
    model = ScriptedModel(echo)
    agent = Agent("a", instructions="Standing.", model=model, memory=memory)
    ids = {"resource": "ana", "thread": "t"}
    await agent.generate("one", instructions="Other.", **ids)  # type: ignore[arg-type]
    await agent.generate("two", system="Extra.", **ids)  # type: ignore[arg-type]
    await agent.generate([Message.system("Inline."), "three"], **ids)  # type: ignore[arg-type]
    assert [request.instructions for request in model.requests] == [
        "Other.",
        "Standing.\n\nExtra.",
        "Standing.\n\nInline.",
    ]
    assert [message.role for message in await stored()] == ["user", "assistant"] * 3


# -- repeated and replayed input ---------------------------------------------------------------------


async def test_a_client_may_replay_its_history(memory: Memory, stored: Stored) -> None:
    """A client that sends the whole conversation again adds only what is new; its edits change nothing."""
    model = ScriptedModel(echo)
    agent = Agent("a", model=model, memory=memory)
    first = await agent.generate("one", resource="ana", thread="t")
    edited = first.messages[1].replace(text="what the model never said")
    await agent.generate([first.messages[0], edited, "two"], resource="ana", thread="t")
    assert [message.text for message in await stored()] == ["one", "echo one", "two", "echo two"]
    assert asked(model) == [("user", "one"), ("assistant", "echo one"), ("user", "two")]


async def test_an_empty_thread_takes_a_supplied_history(memory: Memory, stored: Stored) -> None:
    """In a new thread the whole input is stored, given as messages or as JSON objects."""
    model = ScriptedModel(echo)
    agent = Agent("a", model=model, memory=memory)
    await agent.generate(
        [
            {"role": "user", "content": "one"},
            {"role": "assistant", "parts": [{"type": "text", "text": "1"}]},
            Message.user("two"),
        ],
        resource="ana",
        thread="t",
    )
    assert [message.text for message in await stored()] == ["one", "1", "two", "echo two"]


async def test_a_message_sent_again_is_asked_again(memory: Memory, stored: Stored) -> None:
    """A stored user message sent again comes last in the prompt; the new answer is a message of its own."""
    model = ScriptedModel(["first try", "second try"])
    agent = Agent("a", model=model, memory=memory)
    question = Message.user("why?", id="q-1")
    await agent.generate(question, resource="ana", thread="t")
    await agent.generate(question, resource="ana", thread="t")
    assert asked(model) == [("user", "why?")]
    assert [(m.id == "q-1", m.text) for m in await stored()] == [
        (True, "why?"),
        (False, "first try"),
        (False, "second try"),
    ]


async def test_nothing_new_is_refused(memory: Memory) -> None:
    """A replay that ends with a stored answer has nothing to answer, and no model is called."""
    model = ScriptedModel(echo)
    agent = Agent("a", model=model, memory=memory)
    first = await agent.generate("one", resource="ana", thread="t")
    with pytest.raises(ValidationError, match="nothing new"):
        await agent.generate(list(first.messages), resource="ana", thread="t")
    assert len(model.requests) == 1


# -- speakers ----------------------------------------------------------------------------------------


async def test_the_speaker_is_stored_on_the_message(memory: Memory, stored: Stored) -> None:
    """The call's speaker goes on new user messages that have none; a verified speaker on all of them."""
    agent = Agent("a", model=ScriptedModel(echo), memory=memory)
    ana, ben, eve = Speaker(id="ana", name="Ana"), Speaker(id="ben"), Speaker(id="eve")
    ids = {"resource": "team", "thread": "t"}
    await agent.generate(["one", Message.user("two", speaker=ben)], speaker=ana, **ids)  # type: ignore[arg-type]
    claimed = {"content": "three", "speaker": {"id": "boss", "role": "admin"}}
    await agent.generate(claimed, speaker=eve, request_context=RequestContext(speaker=ben), **ids)  # type: ignore[arg-type]
    assert [(m.text, m.speaker) for m in await stored("t", "team") if m.role == "user"] == [
        ("one", ana),
        ("two", ben),
        ("three", ben),
    ]
    with pytest.raises(ValidationError, match="speaker"):
        await agent.generate("four", speaker=Speaker(id=""))

"""Observational memory in whole turns: what is observed when, and that no message is ever out of sight."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from ..._types import Message, TextPart, ToolPart
from ...agents import Agent
from ...memory.observe._types import ObserverBatch, ObserverResult
from ...memory.tokens import message_tokens
from .._model import ScriptedModel, ToolCall
from ._expect import holds, same
from ._harness import Harness
from ._registry import behaviour
from ._world import WHERE, WHO, Observer, Reflector, World, small


def sizes(messages: Any) -> int:
    return sum(message_tokens(message) for message in messages)


async def world_of(h: Harness, settings: Any = None, **options: Any) -> World:
    """A world on an empty store."""
    return World(settings or small(), store=await h.fresh(), **options)


def with_tool(world: World, answer: str) -> Agent:
    """The world's agent with a tool that gives `answer`."""

    def look(n: int) -> str:
        """Look."""
        return answer

    model = ScriptedModel(world._answer)
    return Agent("helper", model=model, memory=world.memory, tools=[look], max_steps=20)


def call_then_answer(calls: int) -> Any:
    """A model that calls a tool so many times in a turn, and then answers."""

    def reply(request: Any) -> Any:
        last = request.messages[-1]
        done = sum(isinstance(part, ToolPart) for part in last.parts) if last.role == "assistant" else 0
        return ToolCall("look", {"n": done}) if done < calls else "done"

    return reply


@behaviour("observing: nothing is observed below the threshold", needs="observations")
async def below(h: Harness) -> None:
    """Behaviour 1."""
    observer = Observer()
    world = await world_of(h, small(observer, buffer_tokens=False))
    for _ in range(3):
        await world.say()
    same([], observer.batches, "no call of the observer")
    shown = [message.text.split()[:2] for message in world.requests[-1].messages][::2]
    same([["message", "1"], ["message", "2"], ["message", "3"]], shown, "each message, as it was said")


@behaviour("observing: at the threshold all is observed once, in order", needs="observations")
async def at_threshold(h: Harness) -> None:
    """Behaviour 2."""
    observer = Observer()
    world = await world_of(
        h, small(observer, buffer_tokens=False, observation={"max_tokens_per_batch": 9000})
    )
    while not observer.batches:
        await world.say()
    same(1, len(observer.batches), "one call")
    stored = [message.id for message in await world.messages()]
    seen = [message.id for message in observer.batches[0].messages]
    same(stored[:-2], seen, "with every message that was not observed")
    await world.sees_all()


@behaviour("observing: what was observed in the background takes over at the threshold", needs="observations")
async def in_background(h: Harness) -> None:
    observer = Observer()
    world = await world_of(h, small(observer))
    for _ in range(12):
        await world.say()
        await world.sees_all()
    holds(len(observer.batches) >= 3, "it was observed in several calls")
    same(
        {"threshold"}, {event.data["why"] for event in world.named("data-om-activation")}, "why it took over"
    )
    texts = [message.text for message in world.requests[-1].messages]
    holds(any(text.startswith("<observations>") for text in texts), "the notes are in the prompt")
    holds(not any(text.startswith("message 1 ") for text in texts), "the first message is not")


@behaviour("observing: a message larger than the threshold is observed", needs="observations")
async def large(h: Harness) -> None:
    """Behaviour 3."""
    observer = Observer()
    world = await world_of(h, small(observer))
    await world.say("large " * 900)
    seen = [message.text for batch in observer.batches for message in batch.messages]
    holds(any(text.startswith("large") for text in seen), "there is no dead zone")
    for text in ("and then?", "go on"):
        await world.say(text)
        await world.sees_all()
    shown = [message.text for message in world.requests[-1].messages]
    holds(not any(text.startswith("large") for text in shown), "its note takes its place")


@behaviour("observing: before each call each message is raw or covered", needs="observations")
async def coverage(h: Harness) -> None:
    """Behaviour 4: turns with and without tool calls, condensing, and a small log."""
    world = await world_of(
        h, small(Observer(), Reflector(), observation_tokens=300), reply=call_then_answer(0)
    )
    plain, busy = world.agent, with_tool(world, "found " * 30)
    for turn in range(24):
        start = len(world.requests)
        world.agent = busy if turn % 4 == 3 else plain
        world._reply = call_then_answer(2) if turn % 4 == 3 else lambda request: "I see. " + "ok " * 20
        await world.say(words=30)
        await world.sees_all(start)
    holds(any(row.made_by == "reflector" for row in await world.rows("all")), "it was condensed meanwhile")


@behaviour("observing: messages that come late or at the same time are covered", needs="observations")
async def late(h: Harness) -> None:
    """Behaviours 5 and 6."""
    for skew in (-1005.0, -1000.0):
        world = await world_of(h)
        for _ in range(8):
            await world.say()
        at = world.clock.now + timedelta(seconds=skew)
        sent = [Message.user(f"late {n} " + "x " * 60, created_at=at) for n in range(4)]
        await world.memory.resource(WHO).thread(WHERE).save(sent)
        await world.say()
        await world.sees_all()
        shown = {message.id for message in world.requests[-1].messages}
        holds({message.id for message in sent} <= shown, "they are shown")
        for _ in range(8):
            await world.say()
        cited = {source.message_id for row in await world.rows("all") for source in row.sources}
        holds({message.id for message in sent} <= cited, "and then observed")


@behaviour("observing: a message that grows is shown again, and observed again", needs="observations")
async def grows(h: Harness) -> None:
    """Behaviour 7."""
    world = await world_of(h)
    for _ in range(10):
        await world.say()
    first = (await world.messages())[0]
    holds(first.id not in {m.id for m in world.requests[-1].messages}, "it was covered")
    thread = world.memory.resource(WHO).thread(WHERE)
    await thread.save(Message.user(first.text + " and a postscript", id=first.id))
    await world.say()
    holds(any("a postscript" in m.text for m in world.requests[-1].messages), "what came is in the prompt")
    await world.sees_all()
    for _ in range(8):
        await world.say()
    await world.sees_all()
    holds(first.id not in {m.id for m in world.requests[-1].messages}, "it is covered again")


@behaviour("observing: a backlog is observed in bounded calls, oldest first", needs="observations")
async def backlog(h: Harness) -> None:
    """Behaviour 8."""
    observer = Observer()
    world = await world_of(h, small(observer))
    old = [Message.user(f"old {n} " + "y " * 50) for n in range(100)]
    await world.memory.resource(WHO).thread(WHERE).save(old)
    await world.say()
    await world.memory.settled()
    holds(max(sizes(batch.messages) for batch in observer.batches) <= 400, "each within the limit")
    seqs = [message.seq or 0 for batch in observer.batches for message in batch.messages]
    same(sorted(set(seqs)), seqs, "oldest first, each once")
    holds((await world.state()).log.observed_seq >= 100, "all of them")
    await world.say()
    await world.sees_all()


@behaviour("observing: the question stays to the letter for the whole turn", needs="observations")
async def pinned(h: Harness) -> None:
    """Behaviours 9 and 10: ten tool steps, the threshold is crossed in the fifth."""
    world = await world_of(h)
    for _ in range(5):
        await world.say(words=16)
    world._reply = call_then_answer(10)
    world.agent = with_tool(world, "found " * 50)
    for turn in range(3):
        question = f"question {turn} " + "detail " * 20
        start, before = len(world.requests), len(world.named("data-om-activation"))
        await world.say(question)
        same(11, len(world.requests) - start, "ten calls and an answer")
        for request in world.requests[start:]:
            asked = [m for m in request.messages if m.role == "user" and m.parts[0] == TextPart(question)]
            same(1, len(asked), "the question stands in the prompt, once and unchanged")
            for message in request.messages:
                for part in message.parts:
                    whole = not isinstance(part, ToolPart) or part.state != "call"
                    holds(whole, "a call stands with its result")
        await world.sees_all(start)
        if turn == 0:
            holds(len(world.named("data-om-activation")) > before, "notes took over within the turn")
            first = [m.id for m in world.requests[start].messages]
            last = [m.id for m in world.requests[-1].messages]
            holds(first[0] != last[0], "which changed the prompt between its steps")


@behaviour("observing: the newest messages stay raw, in whole exchanges", needs="observations")
async def floor(h: Harness) -> None:
    """Behaviour 11."""
    world = await world_of(h, small(observation={"buffer_activation": 0.5}))
    for _ in range(25):
        before = len(world.named("data-om-activation"))
        await world.say()
        if len(world.named("data-om-activation")) > before:
            stored = {message.id for message in await world.messages()}
            kept = [m for m in world.requests[-1].messages[:-1] if m.id in stored]
            holds(sizes(kept) >= 300, "at least what the settings say")
            same("user", kept[0].role, "beginning with a question")
    holds(world.named("data-om-activation"), "notes took over")


@behaviour("observing: it goes on until the messages fit", needs="observations")
async def until_they_fit(h: Harness) -> None:
    """Behaviour 12: what is ready covers a part of the excess only."""
    observer = Observer()
    world = await world_of(h, small(observer, deadline=20.0))
    for _ in range(4):
        await world.say()
    holds((await world.state()).ends, "something is ready")
    ready = len(observer.batches)
    bulk = [Message.user(f"bulk {n} " + "z " * 60) for n in range(60)]
    await world.memory.resource(WHO).thread(WHERE).save(bulk)
    await world.say()
    raw = [m for m in world.requests[-1].messages[:-1] if m.text.startswith(("bulk", "message"))]
    holds(sizes(raw) < 600, "the turn that found too much shows less than the threshold")
    holds(len(observer.batches) > ready + 5, "after as many calls as that took")
    await world.sees_all()


@behaviour("observing: a message in view and a note of nothing are both coverage", needs="observations")
async def nothing(h: Harness) -> None:
    """Behaviour 15: what is explicitly nothing covers its messages, and is never shown."""

    def script(batch: ObserverBatch) -> ObserverResult:
        return ObserverResult(rows=(), nothing=tuple([message.id for message in batch.messages]))

    world = await world_of(h, small(Observer(script)))
    for _ in range(12):
        await world.say()
        await world.sees_all()
    holds((await world.state()).log.visible_seq > 0, "the cursor moves")
    rows = await world.rows("all")
    same({"none"}, {row.kind for row in rows}, "rows that say so")
    named = {source.message_id for row in rows for source in row.sources}
    covered = [m.id for m in await world.messages() if (m.seq or 0) <= (await world.state()).log.observed_seq]
    same(sorted(covered), sorted(named), "which name each message of the range")
    shown = [m.text for m in world.requests[-1].messages]
    holds(not any(text.startswith("<observations>") for text in shown), "nothing of it is shown")


@behaviour("observing: an overflow is answered with a smaller prompt, once", needs="observations")
async def overflow(h: Harness) -> None:
    """Behaviour 73."""
    from ..._errors import ModelError
    from ._expect import refuses

    limit = 10**9

    def reply(request: Any) -> Any:
        if sizes(request.messages) > limit:
            raise ModelError("This model's maximum context length is exceeded", status=400)
        return "fine " * 20

    world = await world_of(h, small(message_tokens=5000), reply=reply)
    for _ in range(15):
        await world.say()
    limit = 900
    result = await world.say("what now?")
    holds(result.text.startswith("fine"), "the second try is answered")
    holds(world.requests[-1].messages[-1].text.startswith("what now?"), "with the question in it")
    same(sorted(result.context.dropped), sorted(await world.hidden()), "what was left out is named")
    limit = 10
    await refuses(ModelError, world.say("and now?"), "a second refusal is told")


@behaviour("observing: what the prompt holds beside the conversation is never stored", needs="observations")
async def injected(h: Harness) -> None:
    """Behaviour 56."""
    world = await world_of(h)
    for _ in range(12):
        await world.say()
    stored = {message.id for message in await world.messages()}
    made = [m.id for m in world.requests[-1].messages if m.id not in stored]
    holds(made, "there is something in the prompt that is not stored")
    holds(all(id_.startswith("observations-") for id_ in made), "which memory put there")
    kinds = [block.kind for block in (await world.say()).context.blocks]
    order = [kinds.index(kind) for kind in ("observations", "history", "input", "now")]
    same(sorted(order), order, "notes, messages, the question, the present")

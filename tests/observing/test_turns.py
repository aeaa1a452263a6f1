"""Observational memory in a turn: when it observes, what the model sees, and that nothing gets lost."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from threadmark import (
    ConfigurationError,
    Message,
    ModelError,
    StoreError,
    TextPart,
    ToolPart,
    ValidationError,
)
from threadmark.memory.observe._types import ObserverBatch, ObserverResult, ObservingError, Roles
from threadmark.memory.observe.plan import Observe
from threadmark.memory.observe.work import Place, Worker
from threadmark.memory.tokens import message_tokens
from threadmark.stores.base import Hints, RoleHealth
from threadmark.stores.sqlite import SQLiteStore
from threadmark.testing import ToolCall
from threadmark.testing._faults import FaultyStore

from .scripted import WHERE, WHO, Observer, World, noted, small

pytestmark = pytest.mark.anyio


async def test_nothing_is_observed_below_the_threshold() -> None:
    """1: No call below the threshold, and the prompt has every message as it was said."""
    observer = Observer()
    world = World(small(observer, buffer_tokens=False))
    for _ in range(3):
        await world.say()
    assert observer.batches == []
    shown = [message.text for message in world.requests[-1].messages]
    assert [text.split()[:2] for text in shown[::2]] == [["message", "1"], ["message", "2"], ["message", "3"]]


async def test_at_the_threshold_all_is_observed_once_in_order() -> None:
    """2: One call, whose input has every message that was not observed, once and in order."""
    observer = Observer()
    world = World(small(observer, buffer_tokens=False, observation={"max_tokens_per_batch": 9000}))
    while not observer.batches:
        await world.say()
    assert len(observer.batches) == 1
    stored = [message.id for message in await world.messages()]
    seen = [message.id for message in observer.batches[0].messages]
    assert seen == stored[: len(seen)] == stored[:-2]
    assert await world.hidden() == []


async def test_background_work_is_ready_when_the_threshold_comes() -> None:
    """Observing goes on in the background; at the threshold its rows take the place of the messages."""
    observer = Observer()
    world = World(small(observer))
    for _ in range(12):
        await world.say()
        assert await world.hidden() == []
    assert len(observer.batches) >= 3
    activations = world.named("data-om-activation")
    assert activations
    assert {event.data["why"] for event in activations} == {"threshold"}
    texts = [message.text for message in world.requests[-1].messages]
    assert any(text.startswith("<observations>") for text in texts)
    assert not any(text.startswith("message 1 ") for text in texts)


async def test_a_message_larger_than_the_threshold_is_observed() -> None:
    """3: One large message is observed on its own: there is no dead zone."""
    observer = Observer()
    world = World(small(observer))
    await world.say("large " * 900)
    assert any(message.text.startswith("large") for batch in observer.batches for message in batch.messages)
    await world.say("and then?")
    await world.say("go on")
    assert await world.hidden() == []


async def test_every_message_is_raw_or_covered_before_each_call() -> None:
    """4: In sixty turns, with tools, condensing and a small budget for it all, no message is out of sight."""
    from .scripted import Reflector

    world = World(small(Observer(), Reflector(), observation_tokens=500))
    for _ in range(60):
        await world.say(words=30)
        assert await world.hidden() == []
    assert any(row.made_by == "reflector" for row in await world.rows("all"))


@pytest.mark.parametrize("skew", [-5.0, 0.0])
async def test_late_and_tied_messages_are_covered(skew: float) -> None:
    """5, 6: Messages with an older time, and with one and the same, are shown, and then observed."""
    world = World(small())
    for _ in range(8):
        await world.say()
    at = world.clock.now + timedelta(seconds=skew - 1000)
    late = [Message.user(f"late {n} " + "x " * 60, created_at=at) for n in range(4)]
    thread = world.memory.resource(WHO).thread(WHERE)
    await thread.save(late)
    await world.say()
    assert await world.hidden() == []
    shown = {message.id for message in world.requests[-1].messages}
    assert {message.id for message in late} <= shown
    for _ in range(8):
        await world.say()
    cited = {source.message_id for row in await world.rows("all") for source in row.sources}
    assert {message.id for message in late} <= cited


async def test_a_message_that_grows_is_shown_again() -> None:
    """7: Parts that come after a message was observed are in the prompt, and then observed."""
    world = World(small())
    for _ in range(10):
        await world.say()
    first = (await world.messages())[0]
    assert first.id not in {message.id for message in world.requests[-1].messages}
    await (
        world.memory.resource(WHO)
        .thread(WHERE)
        .save(Message.user(first.text + " and a postscript", id=first.id))
    )
    await world.say()
    assert any("a postscript" in message.text for message in world.requests[-1].messages)
    assert await world.hidden() == []


async def test_a_backlog_is_observed_in_bounded_batches() -> None:
    """8: A long backlog goes to the observer oldest first, each batch bounded, and the cursor only grows."""
    observer = Observer()
    world = World(small(observer))
    backlog = [Message.user(f"old {n} " + "y " * 50) for n in range(100)]
    await world.memory.resource(WHO).thread(WHERE).save(backlog)
    await world.say()
    await world.memory.settled()
    sizes = [sum(message_tokens(m) for m in batch.messages) for batch in observer.batches]
    assert max(sizes) <= 400
    seqs = [message.seq for batch in observer.batches for message in batch.messages]
    assert seqs == sorted(set(seqs), key=lambda seq: seq or 0)
    assert (await world.state()).log.observed_seq >= 100
    await world.say()
    assert await world.hidden() == []


def call_then_answer(calls: int) -> Any:
    """A model that calls a tool so many times in a turn, and then answers."""

    def reply(request: Any) -> Any:
        last = request.messages[-1]
        done = sum(isinstance(part, ToolPart) for part in last.parts) if last.role == "assistant" else 0
        return ToolCall("look", {"n": done}) if done < calls else "done"

    return reply


async def test_the_question_stays_for_the_whole_turn() -> None:
    """9, 10: In a turn of ten tool steps that crosses the threshold, each call has the question verbatim."""
    world = World(small(), reply=call_then_answer(10))
    world.agent = _with_tool(world)
    for turn in range(3):
        question = f"question {turn} " + "detail " * 20
        start = len(world.requests)
        await world.say(question)
        for request in world.requests[start:]:
            asked = [m for m in request.messages if m.role == "user" and m.parts[0] == TextPart(question)]
            assert len(asked) == 1
            for message in request.messages:
                for part in message.parts:
                    assert not isinstance(part, ToolPart) or part.state != "call"
        assert len(world.requests) - start == 11
        assert await world.hidden() == []


def _with_tool(world: World) -> Any:
    from threadmark import Agent
    from threadmark.testing import ScriptedModel

    def look(n: int) -> str:
        """Look."""
        return "found " * 40

    return Agent(
        "helper", model=ScriptedModel(world._answer), memory=world.memory, tools=[look], max_steps=20
    )


async def test_the_newest_messages_stay_raw() -> None:
    """11: What is activated leaves the configured size of the newest messages raw, in whole exchanges."""
    settings = small(observation={"buffer_activation": 0.5})
    world = World(settings)
    for _ in range(25):
        before = len(world.named("data-om-activation"))
        await world.say()
        if len(world.named("data-om-activation")) > before:
            raw = [m for m in world.requests[-1].messages if not m.id.startswith("observations")]
            stored = {message.id for message in await world.messages()}
            kept = [message for message in raw[:-1] if message.id in stored]
            assert sum(message_tokens(message) for message in kept) >= 300
            assert kept[0].role == "user"
    assert world.named("data-om-activation")


async def test_observing_goes_on_until_the_messages_fit() -> None:
    """12: Where what is ready covers a part of the excess only, the rest is observed too."""
    observer = Observer()
    world = World(small(observer, deadline=20.0))
    await world.say()
    thread = world.memory.resource(WHO).thread(WHERE)
    await thread.save([Message.user(f"bulk {n} " + "z " * 60) for n in range(60)])
    await world.say()
    state = await world.state()
    assert sum(message_tokens(message) for message in state.raw) < 600 + 200
    assert await world.hidden() == []


@pytest.mark.parametrize("reason", ["empty", "refusal", "unparsable"])
async def test_an_observer_that_gives_nothing_moves_nothing(reason: str) -> None:
    """14, 16, 31: The turn goes on, the messages stay raw, it is told, and tried again after a pause only."""

    def refuse(batch: ObserverBatch) -> ObserverResult:
        raise ObservingError("nothing", reason=reason)

    observer = Observer(refuse)
    world = World(small(observer, max_failures=5, rest=600.0))
    for _ in range(8):
        result = await world.say()
        assert result.text.startswith("I see")
        assert await world.hidden() == []
    state = await world.state()
    assert (state.log.observed_seq, state.rows) == (0, ())
    assert len(state.raw) == 16
    calls = len(observer.batches)
    assert 1 <= calls < 4
    assert len(world.named("data-om-observation-failed")) == calls
    world.clock.advance(3600)
    await world.say()
    assert len(observer.batches) > calls


async def test_an_empty_result_is_a_failure() -> None:
    """14: No row and nothing said to hold nothing: the range is not observed."""
    world = World(small(Observer(lambda batch: ObserverResult(rows=()))))
    for _ in range(5):
        await world.say()
    assert (await world.state()).log.observed_seq == 0
    assert world.named("data-om-observation-failed")[0].data["reason"] == "empty"


async def test_nothing_to_note_is_noted() -> None:
    """15: What is explicitly nothing covers its messages by a row that names them and is never shown."""

    def nothing(batch: ObserverBatch) -> ObserverResult:
        return ObserverResult(rows=(), nothing=tuple([message.id for message in batch.messages]))

    world = World(small(Observer(nothing)))
    for _ in range(12):
        await world.say()
        assert await world.hidden() == []
    assert (await world.state()).log.visible_seq > 0
    rows = await world.rows("all")
    assert {row.kind for row in rows} == {"none"}
    assert not any(m.text.startswith("<observations>") for m in world.requests[-1].messages)


async def test_an_answer_cut_short_covers_what_it_cites() -> None:
    """17: Messages that no complete line cites stay raw, and come again."""
    observer = Observer(lambda batch: ObserverResult(rows=(noted(batch.messages[0]),), truncated=True))
    world = World(small(observer))
    for _ in range(10):
        await world.say()
        assert await world.hidden() == []
    state = await world.state()
    assert state.log.gaps
    observer.script = lambda batch: ObserverResult(rows=tuple([noted(m) for m in batch.messages]))
    for _ in range(15):
        await world.say()
    assert await world.hidden() == []


async def test_unknown_sources_are_never_stored() -> None:
    """25: A row from messages that were not in the batch is dropped; the message stays raw."""

    def forged(batch: ObserverBatch) -> ObserverResult:
        made = [noted(Message.user("forged"), priority="high"), *[noted(m) for m in batch.messages[1:]]]
        return ObserverResult(rows=tuple(made))

    world = World(small(Observer(forged)))
    for _ in range(6):
        await world.say()
    assert not [row for row in await world.rows("all") if "forged" in row.text]
    assert await world.hidden() == []


async def test_the_prior_log_is_bounded() -> None:
    """30: The observer gets so many tokens of earlier rows, and how many were left out."""
    observer = Observer()
    world = World(small(observer, observation_tokens=9000, observation={"previous_observer_tokens": 100}))
    for _ in range(30):
        await world.say()
    last = observer.batches[-1]
    assert sum(row.tokens for row in last.prior) <= 100
    assert last.prior
    assert last.prior_omitted > 0


async def test_a_turn_waits_no_longer_than_its_deadline() -> None:
    """32: An observer that hangs costs a turn its deadline at most, however often it is due."""
    observer = Observer()
    observer.gate = asyncio.Event()
    world = World(small(observer, buffer_tokens=False, deadline=0.2))
    began = time.monotonic()
    for _ in range(12):
        await world.say(settle=False)
    assert time.monotonic() - began < 12 * 0.2 + 3
    assert await world.hidden() == []
    observer.gate.set()
    await world.memory.settled()


async def test_the_circuit_opens_and_closes() -> None:
    """33: After failures in a row the raw messages are bounded, which is said; later it is tried again."""

    def fail(batch: ObserverBatch) -> ObserverResult:
        raise ObservingError("down")

    observer = Observer(fail)
    world = World(small(observer, max_failures=2, rest=60.0))
    for _ in range(30):
        result = await world.say()
        world.clock.advance(200)
        dropped = set(result.context.dropped)
        assert set(await world.hidden()) == dropped
    assert dropped
    assert any("observing failed" in why for why in result.context.breaks)
    tokens = sum(message_tokens(message) for message in world.requests[-1].messages)
    assert tokens < 720 + 200
    observer.script = lambda batch: ObserverResult(rows=tuple([noted(m) for m in batch.messages]))
    world.clock.advance(7200)
    for _ in range(4):
        result = await world.say()
    assert result.context.dropped == ()
    assert await world.hidden() == []


async def test_raise_fails_the_turn() -> None:
    """`on_failure="raise"`: whoever wants no answer without memory gets an error."""

    def fail(batch: ObserverBatch) -> ObserverResult:
        raise ObservingError("down")

    world = World(small(Observer(fail), buffer_tokens=False, on_failure="raise"))

    async def talk() -> None:
        for _ in range(12):
            await world.say()

    with pytest.raises(ObservingError):
        await talk()


async def test_a_cancelled_turn_blocks_nothing() -> None:
    """40: Background work that is stopped gives its job back at once."""
    observer = Observer()
    observer.gate = asyncio.Event()
    world = World(small(observer))
    for _ in range(3):
        await world.say(settle=False)
    await asyncio.sleep(0.05)
    assert observer.batches
    await world.memory.background.cancel()
    state = await world.state()
    assert (state.log.running, state.log.observer.failures) == ((), 0)
    observer.gate = None
    await world.say()
    assert (await world.state()).log.observed_seq > 0


async def test_an_overflow_is_answered_with_a_smaller_prompt_once() -> None:
    """73: Refused as too long, the prompt gets smaller and is sent once more; then the error is told."""
    limit = 10**9

    def reply(request: Any) -> Any:
        size = sum(message_tokens(message) for message in request.messages)
        if size > limit:
            raise ModelError("This model's maximum context length is exceeded", status=400)
        return "fine " * 20

    world = World(small(message_tokens=5000), reply=reply)
    for _ in range(15):
        await world.say()
    limit = 900
    result = await world.say("what now?")
    assert result.text.startswith("fine")
    assert world.requests[-1].messages[-1].text.startswith("what now?")
    assert set(await world.hidden()) == set(result.context.dropped)
    limit = 10
    with pytest.raises(ModelError):
        await world.say("and now?")


async def test_injected_messages_are_never_stored() -> None:
    """56: What the prompt holds beside the conversation is in no store, and the order is fixed."""
    world = World(small())
    for _ in range(12):
        await world.say()
    ids = [message.id for message in world.requests[-1].messages]
    stored = {message.id for message in await world.messages()}
    injected = [id_ for id_ in ids if id_ not in stored]
    assert injected
    assert all(id_.startswith("observations-") for id_ in injected)
    kinds = [block.kind for block in (await world.say()).context.blocks]
    first = kinds.index("observations")
    assert kinds[first:].index("history") < kinds[first:].index("input") < kinds[first:].index("now")


async def test_hints_are_not_shown_once_they_are_stale() -> None:
    """59: Hints say what they were made from, and go when the user has said more since."""

    def hinting(batch: ObserverBatch) -> ObserverResult:
        rows = tuple([noted(message) for message in batch.messages])
        return ObserverResult(rows=rows, hints=Hints(current_task="paint the shed", seq=0))

    observer = Observer(hinting)
    world = World(small(observer))
    for _ in range(12):
        await world.say()
    state = await world.state()
    newest = [m.seq for m in await world.messages() if m.role == "user"]
    result = await world.say()
    told = any("paint the shed" in message.text for message in world.requests[-1].messages)
    assert told == (max(seq or 0 for seq in newest) <= state.log.hints.seq)
    assert result.text


async def test_events_come_in_pairs() -> None:
    """80: Each job has one start, and one end or failure, with its range, tokens, usage and duration."""
    world = World(small())
    for _ in range(12):
        await world.say()
    starts = world.named("data-om-observation-start")
    ends = world.named("data-om-observation-end")
    assert [event.data["job_id"] for event in starts] == [event.data["job_id"] for event in ends]
    assert {"from_seq", "to_seq", "tokens", "usage", "model", "duration"} <= set(ends[0].data)


async def test_idle_threads_change_while_the_cache_is_cold() -> None:
    """What is ready takes over when the thread was idle, below the threshold."""
    world = World(small(message_tokens=2000, activate_after_idle="5m"))
    for _ in range(8):
        await world.say()
    assert not world.named("data-om-activation")
    world.clock.advance(301)
    result = await world.say()
    assert [event.data["why"] for event in world.named("data-om-activation")] == ["idle"]
    assert any("idle" in why for why in result.context.breaks)
    assert await world.hidden() == []


async def test_read_only_turns_change_nothing() -> None:
    """A turn that only reads sees the log, and neither observes nor activates."""
    observer = Observer()
    world = World(small(observer))
    for _ in range(10):
        await world.say()
    before, calls = await world.state(), len(observer.batches)
    await world.agent.generate("just looking", resource=WHO, thread=WHERE, read_only=True)
    await world.memory.settled()
    assert ((await world.state()).log, len(observer.batches)) == (before.log, calls)
    assert await world.hidden() == []


async def test_a_store_without_observations_is_refused() -> None:
    """Observational memory is never silently off."""

    class Bare(SQLiteStore):
        capabilities = frozenset({"scrub"})

    store = Bare(None)
    vars(store)["capabilities"] = frozenset({"scrub"})
    world = World(small(), store=store)
    with pytest.raises(ConfigurationError, match="keeps no observations"):
        await world.say()


async def test_a_store_that_fails_stores_nothing_in_part() -> None:
    """31, 39: A commit of notes that fails, or whose acknowledgement is lost, hides and doubles nothing."""
    for when in ("before", "after"):
        store = FaultyStore(SQLiteStore(None))
        world = World(small(rest=0.0), store=store)
        for number in range(12):
            if number % 3 == 0:
                store.fail("commit_observations", when=when)
            await world.say()
            assert await world.hidden() == []
        cited = [source.message_id for row in await world.rows("all") for source in row.sources]
        assert cited
        assert len(cited) == len(set(cited))
        store.clear()
        store.fail("read_turn")
        with pytest.raises(StoreError):
            await world.say()
        store.clear()
        await world.say()
        assert await world.hidden() == []


async def test_a_role_that_failed_ever_so_often_still_rests() -> None:
    """The rest after a failure has a longest length, however many failures there were."""

    def fail(batch: ObserverBatch) -> ObserverResult:
        raise ObservingError("down", reason="failed")

    world = World(small(Observer(fail), rest=1.0))
    await world.memory.resource(WHO).thread(WHERE).save([Message.user("hello")])
    worker = Worker(
        Place(world.store, world.clock, world.events.append, WHO, WHERE),
        small(),
        Roles(observer=Observer(fail)),
    )
    state = await worker.state()
    often = replace(state, log=replace(state.log, observer=RoleHealth(failures=5000)))
    await worker.observe(often, Observe(from_seq=1, to_seq=1, ids=(state.raw[0].id,)))
    assert (await world.state()).log.observer.failures == 1


async def test_an_activation_that_did_not_happen_is_not_told() -> None:
    """An activation is told of when observations came into view, not when the store refused it."""

    class Refusing(FaultyStore):
        async def activate_observations(self, *args: Any, **kwargs: Any) -> Any:
            raise ValidationError("the log has moved")

    world = World(small(Observer()), store=Refusing(SQLiteStore(None)))
    for _ in range(12):
        await world.say()
    assert (await world.state()).log.observed_seq > 0
    assert world.named("data-om-activation") == []

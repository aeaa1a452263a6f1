"""The figures that observational memory promises, each measured here and printed."""

from __future__ import annotations

import asyncio
import os
import random
import re
import sys
from collections import Counter
from typing import Any

import pytest

from threadmark import Agent, ContextReport, Memory, Message, ModelError, ObservationalMemory
from threadmark.memory.observe._types import (
    ObserverBatch,
    ObserverResult,
    ReflectorBatch,
    ReflectorResult,
    Roles,
)
from threadmark.memory.observe.plan import Reflect
from threadmark.memory.observe.work import Place, Worker
from threadmark.memory.tokens import estimate_tokens, message_tokens
from threadmark.models.base import ModelRequest
from threadmark.stores.base import Activation, NewObservation, Source, TurnWrite
from threadmark.stores.sqlite import SQLiteStore
from threadmark.testing import ScriptedModel, ToolCall
from threadmark.testing._clock import FakeClock

from .scripted import WHERE, WHO, Observer, Reflector, World, note_all, noted, small

pytestmark = pytest.mark.anyio

HISTORIES = int(os.environ.get("THREADMARK_RETENTION_HISTORIES", "250"))


def tell(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Print a figure that a reader of the run wants to see."""
    with capsys.disabled():
        sys.stdout.write(f"\n{text}\n")


# -- prompts that begin alike ------------------------------------------------------------------------


def sent(request: Any) -> str:
    """A request as one text, in order."""
    return "\x00".join([request.instructions, *[f"{m.role}:{m.text}" for m in request.messages]])


def shared(one: str, other: str) -> int:
    """With how many characters both begin."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def leaving(one: Any, other: Any) -> int:
    """How many characters of a prompt are not in the other one: no order of the rest could reuse them."""
    there = Counter([message.text for message in other.messages])
    total = 0
    for message in one.messages:
        if there[message.text]:
            there[message.text] -= 1
        else:
            total += len(message.text) - shared_best(message.text, other)
    return total


def shared_best(text: str, request: Any) -> int:
    """With how many characters `text` and some message of a request begin, at most."""
    return max([shared(text, message.text) for message in request.messages], default=0)


@pytest.mark.parametrize(("words", "reply"), [(15, 10), (25, 20)], ids=["66-a-turn", "106-a-turn"])
async def test_prompts_begin_alike(words: int, reply: int, capsys: pytest.CaptureFixture[str]) -> None:
    """52, 53, 58: Over 120 turns at 1,200 and 600 tokens: what of a prompt a prefix cache can serve."""

    def script(batch: ObserverBatch) -> ObserverResult:
        asked = [message for message in batch.messages if message.role == "user"]
        rows = [
            NewObservation(
                kind="fact",
                priority="medium",
                text=message.text[:24],
                sources=(Source(message_id=message.id),),
            )
            for message in asked[::2]
        ]
        cited = {source.message_id for row in rows for source in row.sources}
        rest = [message.id for message in batch.messages if message.id not in cited]
        return ObserverResult(rows=tuple(rows), nothing=tuple(rest))

    settings = small(
        Observer(script),
        Reflector(),
        message_tokens=1200,
        observation_tokens=600,
        observation={"max_tokens_per_batch": 5000},
    )
    world = World(settings, reply=lambda request: "I see, " + " ".join([f"a{n}" for n in range(reply)]))
    shares: list[float] = []
    steady: list[float] = []
    at_best: list[float] = []
    reports: list[ContextReport] = []
    raw: list[int] = []
    before: Any = None
    for number in range(120):
        world.clock.advance(3600 if number % 10 else 86400)
        reports.append((await world.say(words=words)).context)
        asked = world.requests[-1]
        kept = [message for message in asked.messages[:-1] if not message.id.startswith("observations")]
        raw.append(sum(message_tokens(message) for message in kept))
        if before is not None:
            size = len(sent(before))
            shares.append(shared(sent(before), sent(asked)) / size)
            at_best.append(1 - leaving(before, asked) / size)
            if not reports[-1].breaks:
                steady.append(shares[-1])
        before = asked
    reuse = sum(report.reused_tokens for report in reports) / sum(r.repeated_tokens for r in reports)
    changes = len(shares) - len(steady)
    tell(
        capsys,
        f"{changes} changes of the prompt in 120 turns. Of the tokens that are sent again, a prefix cache "
        f"serves {reuse:.3f}; by turn {sum(r.prefix_reuse for r in reports) / 120:.3f}. Of the characters of "
        f"the prompt before: {sum(shares) / len(shares):.3f}, where {sum(at_best) / len(at_best):.3f} would "
        f"be all that had not left it; {sum(steady) / len(steady):.3f} between changes. On average "
        f"{sum(r.tokens for r in reports) // 120} tokens, of raw messages {sum(raw) // 120}, at most "
        f"{max(raw)}; {len(world.named('data-om-observation-end'))} observations, "
        f"{len(world.named('data-om-reflection-end'))} reflections",
    )
    assert reuse >= 0.97
    assert sum(steady) / len(steady) >= 0.97
    assert sum(shares) / len(shares) >= 0.9
    assert max(raw) < 1200
    assert [r.prefix_reuse for r in reports if not r.breaks] == [1.0] * (120 - changes)


# -- what observing costs ----------------------------------------------------------------------------


async def test_what_an_observer_reads(capsys: pytest.CaptureFixture[str]) -> None:
    """At the defaults, in 200 turns full of tool calls, no call of the observer reads over 12,000 tokens."""
    inputs: list[int] = []

    def answer(request: ModelRequest) -> Any:
        if not request.tools and "message n=" in request.messages[-1].text:
            inputs.append(
                estimate_tokens(request.instructions) + sum(message_tokens(m) for m in request.messages)
            )
            found = re.findall(r'<message n="(m\d+)"[^>]*>\s*([^<]*)', request.messages[-1].text)
            lines = [f"- (medium fact) Noted on {text[:30].strip()}. [{label}]" for label, text in found]
            return "\n".join(lines)
        last = request.messages[-1]
        calls = sum(part.type == "tool" for part in last.parts) if last.role == "assistant" else 0
        return ToolCall("look", {"path": f"src/{calls}.py"}) if calls < 2 else "Done: the build is green."

    def look(path: str) -> str:
        """Read a file."""
        return " ".join([f"{path}:{n} value_{n} = compute({n})" for n in range(60)])

    model = ScriptedModel(answer)
    clock = FakeClock(step=1.0)
    memory = Memory("sqlite://", clock=clock, observational_memory=True)
    agent = Agent("builder", model=model, memory=memory, tools=[look])
    raw = 0
    for number in range(200):
        result = await agent.generate(f"Check part {number} of the build.", resource=WHO, thread=WHERE)
        raw += sum(message_tokens(message) for message in result.messages)
        await memory.settled()
    status = await memory.resource(WHO).thread(WHERE).observations.status()
    await memory.aclose()
    tell(
        capsys,
        f"{len(inputs)} calls of the observer for {raw} tokens of messages: at most {max(inputs)} tokens, "
        f"{sum(inputs) // len(inputs)} on average; the log in view has {status.tokens.view} tokens, "
        f"1 of {raw / max(1, status.tokens.view):.0f}",
    )
    assert inputs
    assert max(inputs) <= 12_000
    assert status.visible_seq > 0


# -- what is never forgotten -------------------------------------------------------------------------


def adversary(choose: random.Random) -> Any:
    """A reflector that tries to get rid of what matters."""

    def reflect(batch: ReflectorBatch) -> ReflectorResult:
        rows = list(batch.rows)
        how = choose.randrange(7)
        ids = tuple([row.id for row in rows])
        words = " ".join([row.text for row in rows])
        text = {
            0: "Sorry, I can't help with that.",
            1: words.replace("4", "7"),
            2: " ".join([word for word in words.split() if word.islower()]),
            3: words[: len(words) // 3],
            4: words,
            5: "They talked about several things, and agreed.",
            6: re.sub(r"\d", "", words),
        }[how]
        size = choose.randint(2, max(2, len(ids)))
        made = [
            NewObservation(
                kind="summary",
                priority=choose.choice(["low", "medium"]),
                text=text[: choose.choice([80, 400, 4000])],
                made_by="reflector",
                children=ids[first : first + size],
                tokens=1,
            )
            for first in range(0, len(ids), size)
        ]
        return ReflectorResult(rows=tuple(made))

    return reflect


async def one_history(store: SQLiteStore, seed: int) -> int:
    """Ten condensings of a history with a planted fact. Returns how many changed something."""
    choose = random.Random(seed)
    owner = f"owner {seed}"
    name = choose.choice(["Marguerite", "Okonkwo", "Škvorecký", "Nguyen", "O'Hara"])
    number = f"{choose.randint(1000, 9999)}-{choose.randint(10, 99)}"
    planted = f"{name} keeps the spare key under box {number}"
    clock = FakeClock(step=1.0)

    def script(batch: ObserverBatch) -> ObserverResult:
        rows = [
            noted(message, priority="high" if number in message.text else choose.choice(["medium", "low"]))
            for message in batch.messages
        ]
        return ObserverResult(rows=tuple(rows))

    settings = small(Observer(script), Reflector(adversary(choose)), max_failures=99, rest=0.0)
    place = Place(store, clock, lambda event: None, owner, WHERE)
    roles = Roles(observer=settings.observer, reflector=settings.reflector)  # type: ignore[arg-type]
    worker = Worker(place, settings, roles)
    changed = 0
    for generation in range(10):
        texts = [f"day {generation} item {n} of {choose.randint(100, 999)}" for n in range(6)]
        if generation == 0:
            texts[2] = planted
        messages = [Message.user(text) for text in texts]
        await store.write_turn(owner, TurnWrite(thread_id=WHERE, now=clock(), messages=messages))
        await worker.run("overflow")
        state = await worker.state()
        await store.activate_observations(
            owner, Activation(thread_id=WHERE, to_seq=state.log.observed_seq, now=clock())
        )
        state = await worker.state()
        rows = [row for row in state.rows if row.in_view]
        clock.advance(3600)
        tokens = sum(row.tokens for row in rows)
        changed += await worker.condense(
            state, Reflect(ids=tuple([row.id for row in rows]), tokens=tokens, target=tokens // 2)
        )
        await store.activate_observations(owner, Activation(thread_id=WHERE, summaries=True, now=clock()))
        view = [row.text for row in (await worker.state()).rows if row.in_view]
        assert any(name in text and number in text for text in view), f"seed {seed}, day {generation}"
    await store.erase(owner, now=clock(), scrub=False)
    return changed


async def test_what_matters_stays_in_view(capsys: pytest.CaptureFixture[str]) -> None:
    """44, 45, 51: A name and a number of high priority from day 1 are in view after ten condensings."""
    store = SQLiteStore(None)
    seeds = iter(range(HISTORIES))
    changes: list[int] = []

    async def work() -> None:
        for seed in seeds:
            changes.append(await one_history(store, seed))

    await asyncio.gather(*[work() for _ in range(6)])
    await store.aclose()
    tell(
        capsys,
        f"{len(changes)} of {HISTORIES} histories keep the planted fact in view through "
        f"{10 * HISTORIES} condensings, {sum(changes)} of which changed the log",
    )
    assert len(changes) == HISTORIES
    assert sum(changes) > HISTORIES / 4


async def test_rules_stay_in_the_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    """Rules that a person stated early are in every later prompt, in 50 of 50 histories on a small budget."""
    rules = [
        "Always answer in French.",
        "Never mention prices.",
        "Call me Captain.",
        "Use metric units only.",
    ]
    kept = 0
    for seed in range(50):
        choose = random.Random(seed)
        rule = choose.choice(rules)

        def script(batch: ObserverBatch, rule: str = rule) -> ObserverResult:
            rows = [
                NewObservation(
                    kind="rule" if rule in message.text else "fact",
                    priority="medium",
                    text=rule if rule in message.text else f"noted {message.text[:60]}",
                    sources=(Source(message_id=message.id),),
                )
                for message in batch.messages
            ]
            return ObserverResult(rows=tuple(rows))

        settings = small(Observer(script), Reflector(adversary(choose)), message_tokens=400)
        world = World(settings, max_context_tokens=1600)
        await world.say(rule)
        for _ in range(14):
            await world.say(words=25)
            assert rule in "\n".join([m.text for m in world.requests[-1].messages]), seed
        first = (await world.messages())[0]
        assert first.id not in {message.id for message in world.requests[-1].messages}, "it was raw all along"
        kept += 1
        await world.memory.aclose()
    tell(capsys, f"{kept} of 50 histories keep their rule in every prompt")
    assert kept == 50


# -- an hour of trouble ------------------------------------------------------------------------------


async def test_an_hour_of_refusals_by_the_provider() -> None:
    """31, 33: While the provider answers 429 for an hour, every turn is answered, and few calls are made."""

    def busy(batch: ObserverBatch) -> ObserverResult:
        raise ModelError("model answered HTTP 429", status=429)

    observer = Observer(busy)
    world = World(small(observer))
    for _ in range(60):
        world.clock.advance(60)
        result = await world.say()
        assert result.text.startswith("I see")
        assert set(await world.hidden()) == set(result.context.dropped)
    assert len(observer.batches) <= 14
    observer.script = note_all
    world.clock.advance(3600)
    for _ in range(3):
        result = await world.say()
    assert (result.context.dropped, await world.hidden()) == ((), [])


def test_the_default_settings_are_those_of_the_field() -> None:
    """30,000 tokens of messages, 40,000 of observations, 6,000 between background calls, 6,000 stay raw."""
    settings = ObservationalMemory()
    assert settings.message_threshold(0) == 30_000
    assert settings.reflection.observation_tokens == 40_000
    assert settings.observation.buffer_interval == 6_000
    assert settings.observation.retention_floor == 6_000
    assert settings.observation.block_tokens == 36_000

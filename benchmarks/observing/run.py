"""Living through conversations, asking, judging: with any model, so that a scripted one can test it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias

from benchmarks.retrieval.data import Turn
from threadmark import Memory, Message, Speaker, Usage
from threadmark.memory.background import MemoryEvent
from threadmark.memory.observe.settings import ObservationalMemory
from threadmark.models import Model, ModelRequest

from .data import Asked, Case

Mode: TypeAlias = Literal["observed", "full", "window"]
"""What the reader sees: the log and what it does not cover; every message; the newest messages only."""

READER = """You answer a question about conversations that you had with the person. What is known of
them stands before the question. Answer in one short sentence, from that alone. If it does not hold the
answer, say that you do not know. The question is asked on {day}."""

JUDGE = """You grade an answer. Compare it with the right answer to the question. It is right if it says
the same, also in other words or with more detail; a date is right if it is the same day, and a number if it
is the same. Answer with the single word yes or no."""

JUDGE_UNKNOWN = """You grade an answer to a question that cannot be answered from what is known. It is
right if it says that this is not known, and wrong if it answers all the same. Answer with the single word
yes or no."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """US dollars for a million tokens. Of what was read, `cached` is paid for the part from the cache."""

    input: float = 0.0
    cached: float = 0.0
    output: float = 0.0

    def of(self, usage: Usage) -> float:
        fresh = max(0, usage.input_tokens - usage.cache_read_tokens)
        read = min(usage.cache_read_tokens, usage.input_tokens)
        return (fresh * self.input + read * self.cached + usage.output_tokens * self.output) / 1e6


@dataclass(slots=True, kw_only=True)
class Spent:
    """What was used by each role."""

    reader: Usage = field(default_factory=Usage)
    judge: Usage = field(default_factory=Usage)
    memory: Usage = field(default_factory=Usage)

    def add(self, other: Spent) -> None:
        self.reader += other.reader
        self.judge += other.judge
        self.memory += other.memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One question, answered and judged."""

    id: str
    category: str
    question: str
    answer: str
    given: str
    right: bool | None
    """`None` where the reader or the judge failed, which `error` tells."""
    context_tokens: int = 0
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Who reads, who judges, who observes, and how memory is set.

    `turns` messages are stored at a time, as in a conversation; the memory works in between, as it would.
    """

    reader: Model
    judge: Model
    memory: ObservationalMemory
    mode: Mode = "observed"
    turns: int = 10
    last_messages: int = 40


async def run_case(case: Case, setup: Setup, spent: Spent) -> list[Outcome]:
    """Live through a case, then ask each of its questions."""
    events: list[MemoryEvent] = []
    clock = _Clock(case)
    # One thread for all sessions: what was said in earlier ones is part of the same conversation.
    async with Memory("sqlite://", clock=clock, on_event=events.append, **_options(setup)) as memory:
        thread = memory.resource("reader").thread("all")
        messages = [_message(turn, clock) for session in case.conversation.threads for turn in session]
        for start in range(0, len(messages), setup.turns):
            await thread.save(messages[start : start + setup.turns])
            if setup.mode == "observed":
                await _observe(memory, setup)
        outcomes = [await _ask(memory, question, setup, spent) for question in case.questions]
        await memory.settled()
    for event in events:
        used = event.data.get("usage") if event.name.endswith(("-end", "-failed")) else None
        if isinstance(used, dict):
            spent.memory += Usage(**used)
    return outcomes


async def _observe(memory: Memory, setup: Setup) -> None:
    """Let memory do what is due after what was stored, as it does after a turn."""
    turn = await memory.open_turn(resource="reader", thread="all", input=[])
    await turn.refresh(setup.reader)
    await memory.settled()


def _options(setup: Setup) -> dict[str, Any]:
    if setup.mode == "observed":
        return {"observational_memory": setup.memory}
    if setup.mode == "full":
        return {"last_messages": None}
    return {"last_messages": setup.last_messages, "exact": True}


async def _ask(memory: Memory, question: Asked, setup: Setup, spent: Spent) -> Outcome:
    day = "today" if question.at is None else f"{question.at:%A, %Y-%m-%d}"
    base = {
        "id": question.id,
        "category": question.category,
        "question": question.text,
        "answer": question.answer,
    }
    context = 0
    try:
        turn = await memory.open_turn(
            resource="reader",
            thread="all",
            input=[Message.user(question.text, created_at=question.at)],
            options={"read_only": True},
        )
        prompt = turn.prompt(READER.format(day=day))
        context = prompt.report.tokens
        response = await setup.reader.request(
            ModelRequest(messages=prompt.messages, instructions=prompt.instructions)
        )
        spent.reader += response.usage
        given = _text(response.parts)
        right = await judged(question, given, setup.judge, spent)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"[:500]
        return Outcome(**base, given="", right=None, context_tokens=context, error=text)
    return Outcome(**base, given=given, right=right, context_tokens=context)


async def judged(question: Asked, given: str, judge: Model, spent: Spent) -> bool:
    """Whether the judge finds the answer right. Raises `ValueError` when it says neither yes nor no."""
    lines = [f"Question: {question.text}"]
    if not question.unanswerable:
        lines.append(f"Right answer: {question.answer}")
    lines.append(f"Answer to grade: {given}")
    response = await judge.request(
        ModelRequest(
            messages=[Message.user("\n".join(lines))],
            instructions=JUDGE_UNKNOWN if question.unanswerable else JUDGE,
            settings={"temperature": 0.0},
        )
    )
    spent.judge += response.usage
    words = re.findall(r"\b(yes|no)\b", _text(response.parts).casefold())
    if not words:
        raise ValueError("the judge said neither yes nor no")
    return bool(words[0] == "yes")


async def run(
    cases: Iterable[Case], setup: Setup, *, at_once: int = 4, told: Callable[[int], None] | None = None
) -> tuple[list[Outcome], Spent]:
    """All cases, `at_once` of them at a time. `told` hears how many are done."""
    spent = Spent()
    gate = asyncio.Semaphore(at_once)
    done = 0

    async def one(case: Case) -> list[Outcome]:
        nonlocal done
        async with gate:
            mine = Spent()
            found = await run_case(case, setup, mine)
            spent.add(mine)
        done += 1
        if told is not None:
            told(done)
        return found

    gathered: Sequence[list[Outcome]] = await asyncio.gather(*(one(case) for case in cases))
    return [outcome for found in gathered for outcome in found], spent


class _Clock:
    """The time of the conversation: that of its newest message, and of the question after it."""

    def __init__(self, case: Case) -> None:
        times = [turn.at for thread in case.conversation.threads for turn in thread if turn.at is not None]
        self.now = datetime.fromtimestamp(min(times), UTC) if times else datetime(2024, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, at: float | None) -> datetime:
        """The time of a message said at `at`, never before the one before it."""
        wanted = None if at is None else datetime.fromtimestamp(at, UTC)
        self.now = max(self.now + timedelta(seconds=1), wanted or self.now)
        return self.now


def _message(turn: Turn, clock: _Clock) -> Message:
    at = clock.advance(turn.at)
    if turn.role == "assistant":
        return Message.assistant(turn.text, created_at=at)
    speaker = None if turn.speaker is None else Speaker(id=turn.speaker, name=turn.speaker)
    return Message.user(turn.text, created_at=at, speaker=speaker)


def _text(parts: Sequence[Any]) -> str:
    return "".join(getattr(part, "text", "") for part in parts if part.type == "text").strip()

"""One function per thing measured; each returns rows of the table."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any

from threadmark import Memory, Message, TextPart, Usage
from threadmark.models.base import Model, ModelEvent, ModelRequest, ModelResponse

from ._common import TEXT, RawStore, Row, cpu_ms, folder


async def _cpu_ms(repeat: int, call: Callable[[], Awaitable[object]]) -> float:
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        for _ in range(repeat):
            await call()
        best = min(best, (time.process_time() - start) * 1000 / repeat)
    return best


def _turn() -> list[Message]:
    return [Message.user(TEXT), Message.assistant(TEXT)]


async def save() -> list[Row]:
    """A turn of two messages, durable when it returns."""
    rows = []
    for durability in ("normal", "full"):
        with folder() as path:
            raw = RawStore(path / "raw.db", durability)
            raw.thread("t")
            floor = cpu_ms(500, lambda raw=raw: raw.turn("t"))  # type: ignore[misc]
            async with Memory(f"sqlite:///{path}/m.db?durability={durability}") as memory:
                thread = memory.resource("u").thread("t")
                await thread.save("first")
                ours = await _cpu_ms(500, lambda thread=thread: thread.save(_turn()))  # type: ignore[misc]
        rows.append(Row(f"save a turn, durability {durability}", ours, floor, "≤ 2 x"))
    return rows


async def read() -> list[Row]:
    """The last 20 messages of threads of growing length."""
    rows = []
    with folder() as path:
        raw = RawStore(path / "raw.db")
        async with Memory(f"sqlite:///{path}/m.db") as memory:
            for length in (100, 10_000, 100_000):
                number = raw.thread(f"t{length}")
                raw.db.execute("BEGIN")
                raw.messages(f"t{length}", length)
                raw.db.execute("COMMIT")
                floor = cpu_ms(300, lambda number=number: raw.last(number, 20))  # type: ignore[misc]
                thread = memory.resource("u").thread(f"t{length}")
                await thread.save([message for _ in range(length // 2) for message in _turn()])
                ours = await _cpu_ms(300, lambda thread=thread: thread.messages(0, 20))  # type: ignore[misc]
                rows.append(Row(f"last 20 of {length:,} messages", ours, floor))
    flat = rows[-1].ours / rows[0].ours
    rows.append(Row("  longest thread / shortest", flat, rows[-2].raw and 1.0, "≤ 1.3", unit="x"))
    return rows


async def turn() -> list[Row]:
    """A whole turn of an agent, its model answering at once.

    The window grows from 20 messages to 180 and starts again, every 80 turns: a batch is two rounds.
    """
    from threadmark import Agent

    rows = []
    for length in (0, 100, 10_000):
        with folder() as path:
            async with Memory(f"sqlite:///{path}/m.db", last_messages=20) as memory:
                agent = Agent("bench", model=_Instant(), memory=memory)
                if length:
                    thread = memory.resource("u").thread("t")
                    await thread.save([message for _ in range(length // 2) for message in _turn()])
                ours = await _cpu_ms(160, lambda agent=agent: agent.generate(TEXT, resource="u", thread="t"))  # type: ignore[misc]
                rows.append(Row(f"agent turn, {length:,} messages before", ours, bar="≤ 3 ms"))
    return rows


async def recall() -> list[Row]:
    """The same with recall among 10,000 messages of other threads, by the table's vectors."""
    import random

    from threadmark import Agent, SemanticRecall

    rows = []
    words = [f"word{number}" for number in range(3000)]
    weights = [1 / (number + 1) for number in range(3000)]
    for mode in ("lexical", "auto"):
        chance = random.Random(1)
        with folder() as path:
            settings = SemanticRecall(mode=mode)
            async with Memory(f"sqlite:///{path}/m.db", last_messages=20, semantic_recall=settings) as memory:
                for thread in range(100):
                    said = [" ".join(chance.choices(words, weights, k=30)) for _ in range(100)]
                    await memory.resource("u").thread(f"t{thread}").save(said)
                await memory.settled()
                agent = Agent("bench", model=_Instant(), memory=memory)

                async def ask(agent: Agent = agent, chance: random.Random = chance) -> None:
                    text = "What about " + " ".join(chance.choices(words[:300], k=6)) + "?"
                    await agent.generate(text, resource="u", thread="now")

                ours = await _cpu_ms(40, ask)
                what = "lexical" if mode == "lexical" else "hybrid"
                rows.append(Row(f"turn with recall, {what}", ours, bar="≤ 8 ms"))
    return rows


class _Instant(Model):
    """Answers at once, and reports what providers report."""

    @property
    def name(self) -> str:
        return "bench:instant"

    async def request(self, request: ModelRequest) -> ModelResponse:
        usage = Usage(input_tokens=90 * len(request.messages), output_tokens=80, requests=1)
        return ModelResponse(parts=(TextPart(TEXT),), usage=usage, finish_reason="stop")

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        raise NotImplementedError


async def threads() -> list[Row]:
    """The first page of an owner's 10,000 threads, with their total, beside 1,000 other owners."""
    with folder() as path:
        raw = RawStore(path / "raw.db")
        raw.db.execute("BEGIN")
        for i in range(10_000):
            raw.thread(f"t{i}")
        raw.db.execute("COMMIT")

        def first_page() -> object:
            total = raw.db.execute("SELECT count(*) FROM threads WHERE resource_id = 'u'").fetchone()
            rows = raw.db.execute(
                "SELECT * FROM threads WHERE resource_id = 'u' ORDER BY updated_at DESC LIMIT 20"
            ).fetchall()
            return total, rows

        floor = cpu_ms(100, first_page)
        async with Memory(f"sqlite:///{path}/m.db") as memory:
            for owner, count in [("u", 10_000), *((f"o{i}", 3) for i in range(1000))]:
                made = [memory.resource(owner).threads.create(f"t{i}") for i in range(count)]
                for start in range(0, count, 500):
                    await asyncio.gather(*made[start : start + 500])
            user = memory.resource("u").threads
            ours = await _cpu_ms(300, lambda: user.list(0, 20, order_by="updated_at"))
    return [Row("first 20 of 10,000 threads, with total", ours, floor, "≤ 0.3 ms")]


async def bulk() -> list[Row]:
    """10,000 messages in one call and one transaction."""
    rows = []
    for count in (1_000, 10_000):
        batch = [message for _ in range(count // 2) for message in _turn()]
        with folder() as path:
            raw = RawStore(path / "raw.db")
            raw.thread("t")
            start = time.process_time()
            raw.db.execute("BEGIN")
            raw.messages("t", count)
            raw.db.execute("COMMIT")
            floor = (time.process_time() - start) * 1000
            async with Memory(f"sqlite:///{path}/m.db") as memory:
                start = time.process_time()
                await memory.resource("u").thread("t").save(batch)
                rows.append(
                    Row(f"save {count:,} messages in one call", (time.process_time() - start) * 1000, floor)
                )
    return rows


async def imports() -> list[Row]:
    """`import threadmark` and making a `Memory`, each in a fresh process; Python's own start excluded."""
    rows = []
    for what, code in (
        ("import threadmark", "import threadmark"),
        ("import, and make a Memory", "import threadmark; threadmark.Memory('sqlite://')"),
    ):
        script = f"import time; s = time.process_time(); {code}; print((time.process_time() - s) * 1000)"
        taken = [
            float(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)  # noqa: ASYNC221 - nothing else runs meanwhile
            for _ in range(5)
        ]
        rows.append(Row(what, min(taken), bar="≤ 150 ms"))
    return rows


async def writers(seconds: float = 10.0) -> list[Row]:
    """8 writers at once, in one process and in 4, for `seconds` each: turns a second, errors, lost turns."""
    rows = []
    for processes, tasks in ((1, 8), (4, 2)):
        floor = _race("raw", processes, tasks, seconds)
        ours = _race("ours", processes, tasks, seconds)
        label = f"{tasks} writers in {processes} process{'es' if processes > 1 else ''}"
        rows.append(Row(f"{label}, turns/s", ours["rate"], floor["rate"], "≥ 0.6 x", unit="/s"))
        rows.append(Row("  errors + lost turns", ours["errors"] + ours["lost"], bar="0", unit=""))
    return rows


def _race(side: str, processes: int, tasks: int, seconds: float) -> dict[str, float]:
    with folder() as path:
        if side == "raw":
            RawStore(path / "m.db").db.close()  # one makes the tables; ours settle that among themselves
        command = [
            sys.executable,
            "-m",
            "benchmarks._writer",
            side,
            str(path / "m.db"),
            str(tasks),
            str(seconds),
        ]
        running = [
            subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE) for number in range(processes)
        ]
        reports = [json.loads(process.communicate()[0]) for process in running]
        done = sum(report["done"] for report in reports)
        stored = RawStore(path / "m.db").db.execute("SELECT count(*) FROM messages").fetchone()[0]
        return {
            "rate": done / seconds,
            "errors": sum(report["errors"] for report in reports),
            "lost": abs(2 * done - stored),
        }


CASES: dict[str, Callable[[], Coroutine[Any, Any, list[Row]]]] = {
    "save": save,
    "read": read,
    "turn": turn,
    "recall": recall,
    "threads": threads,
    "bulk": bulk,
    "imports": imports,
    "writers": writers,
}

"""CPU time of a store's recall index on made-up messages.

    python -m benchmarks.retrieval.speed --messages 100000 --others 900000 --vectors

One owner has `--messages`, nine others share `--others` in the same SQLite file. Words follow Zipf's law.
Times are CPU of the whole process for a call of the store, the messages that it returns included.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from threadmark import Message, SQLiteStore
from threadmark.stores.base import Embedded, RecallFilter, RecallQuery, TurnWrite

THREAD = 200
START = datetime(2026, 1, 1, tzinfo=UTC)
SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]


def words(count: int, rng: random.Random) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(rng.choices(SYLLABLES, k=rng.randint(2, 4)))] = None
    return list(found)


def messages(vocabulary: list[str], rng: random.Random) -> Iterator[Message]:
    """Endless messages of 5 to 45 words, by turns of a user and an assistant."""
    shares = list(accumulate(1 / (i + 3) for i in range(len(vocabulary))))
    number = 0
    while True:
        text = " ".join(rng.choices(vocabulary, cum_weights=shares, k=rng.randint(5, 45)))
        at = START + timedelta(seconds=number)
        yield Message(text=text, role="assistant" if number % 2 else "user", created_at=at)
        number += 1


def label(text: str) -> str:
    return f"{text:48}"


class Bench:
    """A store in a file, and what measuring it takes."""

    def __init__(self, path: Path, rng: random.Random) -> None:
        self.path = path
        self.store = SQLiteStore(str(path))
        self.loop = asyncio.Runner()
        self.rng = rng
        self.vocabulary = words(40_000, rng)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run(work)

    def cpu(self, work: Coroutine[Any, Any, Any]) -> float:
        started = time.process_time()
        self.loop.run(work)
        return time.process_time() - started

    def fill(self, owner: str, source: Iterator[Message], count: int, batch: int) -> float:
        """Write messages, `batch` to a transaction. Returns the CPU seconds."""
        spent = 0.0
        for first in range(0, count, batch):
            turn = TurnWrite(
                thread_id=f"t{first // THREAD}-{batch}",
                now=START,
                messages=tuple(islice(source, min(batch, count - first))),
            )
            spent += self.cpu(self.store.write_turn(owner, turn))
        return spent

    def ask(self, **fields: Any) -> float:
        return self.cpu(self.store.search_messages("owner-1", RecallQuery(**fields)))


def times(text: str, values: list[float]) -> None:
    values.sort()
    high, worst = values[int(0.95 * len(values))], values[-1]
    middle = statistics.median(values)
    print(f"{label(text)} p50 {1e3 * middle:6.1f}   p95 {1e3 * high:6.1f}   worst {1e3 * worst:6.1f} ms")


def rate(text: str, count: int, seconds: float) -> None:
    print(f"{label(text)} {count / seconds:10,.0f} a CPU second")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--others", type=int, default=900_000)
    parser.add_argument("--vectors", action="store_true", help="the semantic arm too, 256 values a vector")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder) / "bench.db", random.Random(7))
        measure(bench, args.messages, args.others, args.vectors)
        bench.run(bench.store.aclose())


def measure(bench: Bench, count: int, others: int, with_vectors: bool) -> None:
    rng, vocabulary, store = bench.rng, bench.vocabulary, bench.store
    off = bench.fill("unindexed", messages(vocabulary, rng), 2000, THREAD)
    bench.run(store.erase("unindexed", now=START, scrub=False))
    bench.run(store.enable_recall(START))
    source = messages(vocabulary, rng)
    spent = bench.fill("owner-1", source, count, THREAD)
    rate(f"messages saved, {THREAD} a turn, recall off", 2000, off)
    rate(f"messages saved and indexed, {THREAD} a turn", count, spent)
    size = bench.run(store.recall_state(sizes=True)).bytes
    print(f"{label('lexical index')} {size / count:10,.0f} bytes a message")
    for number in range(2, 11):
        bench.fill(f"owner-{number}", messages(vocabulary, rng), others // 9, THREAD)
    spent = bench.fill("owner-1", source, 2000, 2)
    rate("messages saved and indexed, turns of 2", 2000, spent)
    shares = list(accumulate(1 / (i + 20) for i in range(3000)))
    asked = [" ".join(rng.choices(vocabulary[:3000], cum_weights=shares, k=6)) for _ in range(200)]
    times("lexical, 6 words", [bench.ask(query=text) for text in asked])
    commonest = " ".join(vocabulary[:3])
    times("lexical, the 3 commonest words", [bench.ask(query=commonest) for _ in range(9)])
    users = RecallFilter(roles=("user",), since=START)
    times("lexical, 6 words, by role and time", [bench.ask(query=text, filter=users) for text in asked[:50]])
    if with_vectors:
        vectors(bench, asked)


def vectors(bench: Bench, asked: list[str]) -> None:
    import numpy as np

    from threadmark.stores.sqlite._recall_vectors import VectorSource

    store, width = bench.store, 256
    # Made-up words have no meaning: clustered points stand in for messages.
    noise = np.random.default_rng(1)
    centres = noise.standard_normal((2000, width))

    def points(count: int) -> Any:
        found = centres[noise.integers(0, 2000, count)] + 0.7 * noise.standard_normal((count, width))
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype("<f4")

    bench.run(store.drop_space("bench"))
    before = bench.run(store.recall_state(sizes=True)).bytes
    bench.run(store.add_space("bench", width, START))
    ids: list[str] = []
    matrix = []
    spent, wall = 0.0, START + timedelta(days=1)
    # Space is filled in the order of saving: the first owner's messages come first.
    while True:
        started = time.process_time()
        claims = bench.run(store.claim_embeddings("bench", limit=1000, now=wall))
        spent += time.process_time() - started
        claims = [claim for claim in claims if claim.owner == "owner-1"]
        if not claims:
            break
        rows = points(len(claims))
        matrix.append(rows)
        ids += [claim.message.id for claim in claims]
        done = [
            Embedded(token=claim.token, vectors=[row.tobytes()])
            for claim, row in zip(claims, rows, strict=True)
        ]
        spent += bench.cpu(store.store_embeddings("bench", done))
    everything = np.concatenate(matrix)
    rate("vectors through the outbox, 1,000 a claim", len(ids), spent)
    size = bench.run(store.recall_state(sizes=True)).bytes - before
    print(f"{label('vectors')} {size / len(ids):10,.0f} bytes a message")
    queries = points(len(asked))
    hybrid = [
        bench.ask(query=text, vector=row.tobytes(), space="bench")
        for text, row in zip(asked, queries, strict=True)
    ]
    times("hybrid, first query, the query's embedding apart", hybrid[:1])
    times("hybrid, the query's embedding apart", hybrid[1:])
    hits = 0

    async def closest(row: Any) -> set[str]:
        def job(db: Any) -> set[str]:
            keys = VectorSource(db, 1, 1, cache=store._code_cache()).nearest(row.tolist(), 4)[0]
            return {db.execute("SELECT id FROM messages WHERE key = ?", (key,))[0][0] for key in keys}

        return await store._engine.read(job)

    for row in queries:
        exact = {ids[i] for i in np.argpartition(-(everything @ row), 4)[:4].tolist()}
        hits += len(exact & bench.run(closest(row)))
    print(f"{label('recall@4 of the semantic arm')} {hits / (4 * len(asked)):10.4f}")


if __name__ == "__main__":
    main()

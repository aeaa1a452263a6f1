"""CPU time of the index on made-up messages.

    python -m benchmarks.retrieval.speed --messages 100000 --others 900000 --vectors

One owner has `--messages`, nine others share `--others` in the same file. Words follow Zipf's law.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import apsw

from threadmark.recall.gather import search
from threadmark.recall.query import parse_query
from threadmark.recall.rank import Record
from threadmark.stores.sqlite import _recall_index as index
from threadmark.stores.sqlite import _recall_vectors as vectors
from threadmark.stores.sqlite._recall_index import Row, SqlSource

THREAD = 200
SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]


def words(count: int, rng: random.Random) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(rng.choices(SYLLABLES, k=rng.randint(2, 4)))] = None
    return list(found)


def messages(vocabulary: list[str], rng: random.Random) -> Iterator[Row]:
    """Endless messages of 5 to 45 words."""
    shares = list(accumulate(1 / (i + 3) for i in range(len(vocabulary))))
    number = 0
    while True:
        text = " ".join(rng.choices(vocabulary, cum_weights=shares, k=rng.randint(5, 45)))
        role = "assistant" if number % 2 else "user"
        yield Row(number // THREAD, number % THREAD, text, Record(role, None, 1.7e9 + number))
        number += 1


def cpu(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def fill(db: apsw.Connection, owner: int, rows: Iterator[Row], count: int, batch: int) -> float:
    spent = 0.0
    for first in range(0, count, batch):
        some = list(islice(rows, min(batch, count - first)))

        def save(some: list[Row] = some) -> None:
            db.execute("BEGIN IMMEDIATE")
            index.add_messages(db, owner, some)
            db.execute("COMMIT")

        spent += cpu(save)
    return spent


def times(label: str, values: list[float]) -> None:
    values.sort()
    high = values[int(0.95 * len(values))]
    print(f"{label:44} p50 {1e3 * statistics.median(values):6.1f} ms   p95 {1e3 * high:6.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--others", type=int, default=900_000)
    parser.add_argument("--vectors", action="store_true", help="the semantic arm too, with the static table")
    args = parser.parse_args()
    rng = random.Random(7)
    vocabulary = words(40_000, rng)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.db"
        db = apsw.Connection(str(path))
        for pragma in (
            "journal_mode = WAL",
            "synchronous = NORMAL",
            "secure_delete = ON",
            "cache_size = -65536",
        ):
            db.execute(f"PRAGMA {pragma}")
        db.execute(index.SCHEMA)
        db.execute(vectors.SCHEMA)
        rows = messages(vocabulary, rng)
        spent = fill(db, 1, rows, args.messages, 1000)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = path.stat().st_size / args.messages
        print(f"{'ingest, 1,000 a transaction':44} {args.messages / spent:10,.0f} messages a CPU second")
        print(f"{'lexical index':44} {size:10,.0f} bytes a message")
        for owner in range(2, 11):
            fill(db, owner, messages(vocabulary, rng), args.others // 9, 1000)
        spent = fill(db, 1, rows, 2000, 2)
        print(f"{'ingest, turns of 2 messages':44} {2000 / spent:10,.0f} messages a CPU second")
        shares = list(accumulate(1 / (i + 20) for i in range(3000)))
        asked = [" ".join(rng.choices(vocabulary[:3000], cum_weights=shares, k=6)) for _ in range(200)]
        lexical = SqlSource(db, 1)
        times("lexical, 6 words", [cpu(partial(_ask, lexical, text)) for text in asked])
        commonest = " ".join(vocabulary[:3])
        times("lexical, the 3 commonest words", [cpu(partial(_ask, lexical, commonest)) for _ in range(9)])
        if args.vectors:
            _with_vectors(db, args.messages, asked)


def _ask(source: SqlSource, text: str, vector: Any = None) -> None:
    search(source, parse_query(text), vector=vector, limit=10)


def _with_vectors(db: apsw.Connection, count: int, asked: list[str]) -> None:
    import numpy as np

    from threadmark.vectors import StaticEmbedder

    embedder = StaticEmbedder()
    number = vectors.space(db, embedder.name, embedder.dimension)
    keys = [key for (key,) in db.execute("SELECT key FROM recall_docs WHERE owner_no = 1 LIMIT ?", (count,))]
    # Made-up words have no meaning: clustered points stand in for messages.
    noise = np.random.default_rng(1)
    centres = noise.standard_normal((2000, embedder.dimension))
    matrix = centres[noise.integers(0, 2000, len(keys))] + 0.7 * noise.standard_normal(
        (len(keys), embedder.dimension)
    )
    matrix = (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype("<f4")
    spent = 0.0
    for first in range(0, len(keys), 1000):
        some = [
            (key, [row.tobytes()])
            for key, row in zip(keys[first : first + 1000], matrix[first:], strict=False)
        ]

        def save(some: Any = some) -> None:
            db.execute("BEGIN IMMEDIATE")
            vectors.add_vectors(db, 1, number, some)
            db.execute("COMMIT")

        spent += cpu(save)
    print(f"{'vectors, 1,000 a transaction':44} {len(keys) / spent:10,.0f} a CPU second")
    hybrid, hits = [], 0
    for text in asked:
        point = centres[noise.integers(0, 2000)] + 0.7 * noise.standard_normal(embedder.dimension)
        vector = (point / np.linalg.norm(point)).tolist()
        source = vectors.VectorSource(db, 1, number)
        hybrid.append(cpu(partial(_ask, source, text, vector)))
        exact = {keys[i] for i in np.argpartition(-(matrix @ np.array(vector, "<f4")), 4)[:4].tolist()}
        hits += len(exact & set(source.nearest(vector, 40)[0][:4]))
    times("hybrid, the query's embedding apart", hybrid)
    print(f"{'recall@4 of the semantic arm':44} {hits / (4 * len(asked)):10.4f}")


if __name__ == "__main__":
    main()

"""Recall on public sets, without a language model or a network.

    python -m benchmarks.retrieval --set locomo=locomo10.json --set beam=chats/100K \\
        --embedder none static minilm

Each conversation is one owner's memory, its sessions are threads; the query is the question as it stands.
One set of defaults serves all sets. `--only` and `--except` choose conversations by id, to keep those
used for tuning apart. Prints a table; `--json` and `--per-question` write the figures.

By default the questions go the way of an application: messages are saved in a `Memory`, and asked for with
`user.recall`. `--through index` asks the ranking alone, over an index in memory. `window` is what 4 hits
with a neighbour on either side hold of the evidence, `context` what the ranking holds that fills the same
tokens, `prompt` what an agent's prompt gets by default; `..._per_1kt` is the share of the evidence for each
1,000 tokens.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from threadmark.recall.gather import search
from threadmark.recall.local import LocalIndex
from threadmark.recall.query import parse_query
from threadmark.recall.rank import Ranked, Record, Settings
from threadmark.recall.select import window, within_budget

from . import store
from .data import Conversation, load
from .metrics import COLUMNS, by_category, score

Encode = Callable[[list[str]], list[list[float]]]


def encoder(name: str) -> Encode | None:
    """ "none", "static", "minilm", or "module:attribute" of an object with `encode(texts)`."""
    if name == "none":
        return None
    if name in ("static", "minilm"):
        from threadmark.vectors import MiniLMEmbedder, StaticEmbedder

        source: Any = StaticEmbedder() if name == "static" else MiniLMEmbedder()
    else:
        module, _, attribute = name.partition(":")
        source = getattr(importlib.import_module(module), attribute)
        source = source() if isinstance(source, type) else source
    return lambda texts: [[float(v) for v in row] for row in source.encode(texts)]


def embedder_of(name: str) -> Any:
    """The same embedders as a `Memory` takes them."""
    if name in ("none", "static", "minilm"):
        return None if name == "none" else name
    module, _, attribute = name.partition(":")
    source = getattr(importlib.import_module(module), attribute)
    return source() if isinstance(source, type) else source


def run(
    conversations: Iterable[Conversation], encode: Encode | None, settings: Settings, *, arms: str = "both"
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """One row a question, and CPU milliseconds a message and a query (the query's embedding apart)."""
    rows: list[dict[str, Any]] = []
    indexing = asking = 0.0
    messages = 0
    for conversation in conversations:
        index = LocalIndex()
        ids: dict[tuple[int, int], str] = {}
        tokens: dict[tuple[int, int], int] = {}
        started = time.process_time()
        turns = [
            (t, s, turn) for t, thread in enumerate(conversation.threads) for s, turn in enumerate(thread)
        ]
        vectors = encode([turn.text for _, _, turn in turns]) if encode else [None] * len(turns)
        for (thread, seq, turn), vector in zip(turns, vectors, strict=True):
            index.add(
                thread,
                seq,
                turn.text if arms != "semantic" else "",
                Record(turn.role, turn.speaker, turn.at),
                vector=vector,
            )
            ids[thread, seq] = turn.id
            tokens[thread, seq] = turn.tokens
        indexing += time.process_time() - started
        messages += len(turns)
        thread_of = {id_: key[0] for key, id_ in ids.items()}
        tokens_of = {ids[key]: n for key, n in tokens.items()}
        speakers = index.speakers()
        for question in conversation.questions:
            started = time.process_time()
            query = parse_query(question.text, speakers=speakers)
            asking += time.process_time() - started
            vector = encode([query.embed])[0] if encode else None
            started = time.process_time()
            ranked: list[Ranked] = search(index, query, vector=vector, limit=100, settings=settings)
            asking += time.process_time() - started
            around = window(ranked, tokens, top=4, before=1, after=1)
            fit = within_budget(ranked, tokens, sum(tokens[key] for key in around))
            found = score(
                [ids[r.thread, r.seq] for r in ranked], question.gold, tokens=tokens_of, thread_of=thread_of,
                window=[ids[k] for k in around], context=[ids[k] for k in fit],
            )  # fmt: skip
            rows.append(
                {"conversation": conversation.id, "id": question.id, "category": question.category, **found}
            )
    cost = {"index_ms": 1e3 * indexing / max(1, messages), "query_ms": 1e3 * asking / max(1, len(rows))}
    return rows, cost


def show(title: str, table: dict[str, dict[str, float]]) -> None:
    print(f"\n{title}")
    columns = [c for c in COLUMNS if c in table["main"]]
    print(f"{'':26}{'n':>6}" + "".join(f"{c:>15}" for c in columns))
    for name in sorted(table, key=lambda n: (n != "main", n)):
        row = table[name]
        cells = [f"{row[c]:>15.0f}" if c.endswith("tokens") else f"{100 * row[c]:>15.1f}" for c in columns]
        print(f"{name:26}{row['n']:>6.0f}" + "".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.retrieval",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--set", action="append", required=True, metavar="NAME=PATH", dest="sets")
    parser.add_argument("--embedder", nargs="+", default=["none", "static"], help=encoder.__doc__)
    parser.add_argument(
        "--arms", choices=("both", "semantic"), default="both", help="leave the lexical arm out"
    )
    parser.add_argument("--through", choices=("store", "index"), default="store")
    parser.add_argument("--only", nargs="*", metavar="ID", help="only these conversations")
    parser.add_argument("--except", nargs="*", metavar="ID", dest="without", default=[])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--per-question", type=Path)
    args = parser.parse_args()

    report: dict[str, Any] = {}
    questions: list[dict[str, Any]] = []
    for item in args.sets:
        name, _, path = item.partition("=")
        try:
            conversations = load(Path(path))
        except (OSError, ValueError) as error:
            sys.exit(f"--set {item}: {error}")
        keep = [c for c in conversations if (not args.only or c.id in args.only) and c.id not in args.without]
        for embedder in args.embedder:
            if args.through == "store" and args.arms == "both":
                rows, cost = store.run(keep, embedder_of(embedder))
            else:
                rows, cost = run(keep, encoder(embedder), Settings(), arms=args.arms)
            if not rows:
                sys.exit(f"--set {item}: no question is left to ask")
            table = by_category(
                (r["category"], {k: v for k, v in r.items() if isinstance(v, float)}) for r in rows
            )
            show(
                f"{name}, embedder {embedder}: {len(keep)} conversations, CPU "
                f"{cost['index_ms']:.2f} ms a message, {cost['query_ms']:.1f} ms a query",
                table,
            )
            report[f"{name}/{embedder}"] = {"metrics": table, "cost": cost}
            questions += [{"set": name, "embedder": embedder, **r} for r in rows]
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.per_question:
        args.per_question.write_text("".join(json.dumps(q) + "\n" for q in questions), encoding="utf-8")


if __name__ == "__main__":
    main()

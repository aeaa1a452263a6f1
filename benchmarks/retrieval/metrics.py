"""Scores of a ranking against the messages that hold the evidence."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

BUDGETS = (500, 1000, 2000, 4000)
COLUMNS = ("recall@4", "recall@10", "all@10", "ndcg@10", "mrr", "thread@5", "recall@500t",
           "recall@1000t", "recall@4000t", "window", "window_tokens", "window_per_1kt", "context",
           "context_tokens", "context_per_1kt", "prompt", "prompt_tokens", "prompt_per_1kt")  # fmt: skip


def score(
    ranked: Sequence[str],
    gold: Sequence[str],
    *,
    tokens: Mapping[str, int],
    thread_of: Mapping[str, int],
    window: Iterable[str],
    context: Iterable[str],
) -> dict[str, float]:
    """All figures of one question.

    `window` is what the fixed window around the first hits would give a model, `context` what selection
    by a token budget of the same size gives. `recall@Nt` takes ranked messages whole until the next one
    would pass N tokens.
    """
    wanted = set(gold)
    result: dict[str, float] = {}
    for k in (1, 4, 10, 20):
        hits = len(wanted.intersection(ranked[:k]))
        result[f"recall@{k}"] = hits / len(wanted)
        result[f"all@{k}"] = float(hits == len(wanted))
    gains = [1 / math.log2(i + 2) for i in range(10)]
    ideal = sum(gains[: len(wanted)])
    result["ndcg@10"] = sum(g for g, m in zip(gains, ranked, strict=False) if m in wanted) / ideal
    result["mrr"] = next((1 / (i + 1) for i, m in enumerate(ranked) if m in wanted), 0.0)
    threads = list(dict.fromkeys(thread_of[m] for m in ranked))[:5]
    gold_threads = {thread_of[m] for m in wanted}
    result["thread@5"] = len(gold_threads.intersection(threads)) / len(gold_threads)
    for name, chosen in (("window", set(window)), ("context", set(context))):
        result[name] = len(wanted & chosen) / len(wanted)
        result[f"{name}_tokens"] = float(sum(tokens[m] for m in chosen))
    for budget in BUDGETS:
        spent, got = 0, set()
        for m in ranked:
            spent += tokens[m]
            if spent > budget:
                break
            got.add(m)
        result[f"recall@{budget}t"] = len(wanted & got) / len(wanted)
    return result


def by_category(rows: Iterable[tuple[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Means over questions: of each category, and as "main" of all but LoCoMo's adversarial questions.

    Those ask about the wrong person, so finding their evidence is no merit.
    """
    groups: dict[str, list[Mapping[str, float]]] = defaultdict(list)
    for category, row in rows:
        groups[category].append(row)
        if category != "adversarial":
            groups["main"].append(row)
    table = {
        name: {"n": float(len(group))} | {k: sum(r[k] for r in group) / len(group) for k in group[0]}
        for name, group in groups.items()
    }
    for row in table.values():
        for way in ("window", "context", "prompt"):
            if row.get(f"{way}_tokens"):
                row[f"{way}_per_1kt"] = 1000 * row[way] / row[f"{way}_tokens"]
    return table

"""Answers over LongMemEval or LoCoMo, with models and keys of your own.

    python -m benchmarks.observing --set longmemeval_s.json --reader openai:gpt-5-mini \\
        --judge openai:gpt-4o --observer google:gemini-2.5-flash

Each case is lived through in order, with the memory at work as in a conversation; then its questions are
asked and judged. `--mode full` shows every message instead, `--mode window` only the newest. Prints shares
with 95 % intervals (Wilson's for each kind and for all; a bootstrap for the mean over kinds), tokens and
costs for each role, and how much was read from the provider's cache. `--out` writes every answer. Failed
questions are counted, and are not answers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from threadmark import Usage
from threadmark.memory.observe.settings import ObservationalMemory
from threadmark.models import infer_model

from .data import read
from .run import Outcome, Prices, Setup, Spent, run
from .score import grouped, macro, share


def table(outcomes: Sequence[Outcome], spent: Spent, prices: dict[str, Prices]) -> list[str]:
    """What is printed."""
    answered = [outcome for outcome in outcomes if outcome.right is not None]
    groups = grouped((outcome.category, bool(outcome.right)) for outcome in answered)
    width = max([16, *map(len, groups)])
    lines = [f"{name:<{width}}  {share(values)}" for name, values in groups.items()]
    lines.append(f"{'all (micro)':<{width}}  {share(bool(outcome.right) for outcome in answered)}")
    lines.append(f"{'kinds (macro)':<{width}}  {macro(groups)}")
    lines.append(f"{'failed':<{width}}  {len(outcomes) - len(answered)} of {len(outcomes)}")
    if outcomes:
        mean = sum(outcome.context_tokens for outcome in outcomes) / len(outcomes)
        lines.append(f"{'prompt':<{width}}  {mean:,.0f} tokens on average (estimated)")
    total = 0.0
    for role in ("reader", "judge", "memory"):
        usage: Usage = getattr(spent, role)
        cost = prices.get(role, Prices()).of(usage)
        total += cost
        cached = usage.cache_read_tokens / usage.input_tokens if usage.input_tokens else 0.0
        lines.append(
            f"{role:<{width}}  {usage.requests:,} calls, {usage.input_tokens:,} in "
            f"({100 * cached:.1f} % cached), {usage.output_tokens:,} out, ${cost:.2f}"
        )
    lines.append(f"{'cost':<{width}}  ${total:.2f}")
    return lines


def prices(text: str) -> Prices:
    """ "0.25,0.025,2": dollars for a million tokens read, read from the cache, and written."""
    try:
        given = [float(value) for value in text.split(",")]
    except ValueError:
        given = []
    if len(given) != 3 or min(given) < 0:
        raise argparse.ArgumentTypeError(f"prices are three numbers like 0.25,0.025,2, not {text!r}")
    return Prices(input=given[0], cached=given[1], output=given[2])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.observing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--set", type=Path, required=True, help="longmemeval_*.json or locomo10.json")
    parser.add_argument("--reader", required=True, help="the model that answers")
    parser.add_argument("--judge", required=True, help="the model that grades")
    parser.add_argument("--observer", help="the model that observes and reflects; default: the reader")
    parser.add_argument("--mode", choices=["observed", "full", "window"], default="observed")
    parser.add_argument("--limit", type=int, help="ask at most so many questions, drawn with --seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=4, help="conversations at a time")
    for role in ("reader", "judge", "memory"):
        parser.add_argument(f"--{role}-prices", type=prices, default=Prices(), metavar="IN,CACHED,OUT")
    parser.add_argument("--out", type=Path, help="write each answer to this file, a JSON object a line")
    given = parser.parse_args(argv)
    cases = read(given.set)
    if given.limit is not None:
        pairs = [(number, question) for number, case in enumerate(cases) for question in case.questions]
        drawn = random.Random(given.seed).sample(pairs, min(given.limit, len(pairs)))
        cases = [
            type(case)(case.conversation, kept)
            for number, case in enumerate(cases)
            if (kept := tuple(question for index, question in drawn if index == number))
        ]
    reader = infer_model(given.reader)
    setup = Setup(
        reader=reader,
        judge=infer_model(given.judge),
        # The defaults as they are shipped, but for waiting: nobody waits for an answer here.
        memory=ObservationalMemory(model=given.observer or reader, deadline=600.0, job_deadline=600.0),
        mode=given.mode,
    )

    def told(done: int) -> None:
        print(f"\r{done} of {len(cases)} conversations", end="", file=sys.stderr, flush=True)

    outcomes, spent = asyncio.run(run(cases, setup, at_once=max(1, given.at_once), told=told))
    print(file=sys.stderr)
    costs = {role: getattr(given, f"{role}_prices") for role in ("reader", "judge", "memory")}
    print("\n".join(table(outcomes, spent, costs)))
    if given.out is not None:
        with given.out.open("w", encoding="utf-8") as lines:
            for outcome in outcomes:
                lines.write(json.dumps(outcome.to_dict(), ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

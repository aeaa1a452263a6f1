"""What a turn costs with observational memory and nothing to do: CPU by length of the thread and of its log.

    python -m benchmarks.observing.turns

The model is no part of it: it answers at once. Each figure is the best and the mean of 60 turns.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from threadmark import Agent, Memory, Message, ObservationalMemory, TextPart, Usage
from threadmark.memory.observe._types import ObserverBatch, ObserverResult
from threadmark.models.base import ModelRequest, ModelResponse
from threadmark.stores.base import Activation, NewObservation, Source
from threadmark.testing import ScriptedModel

TURNS = 60


class OneIn:
    """Notes one message in so many; the others hold nothing."""

    version = "one-in"

    def __init__(self, step: int) -> None:
        self._step = step

    async def observe(self, batch: ObserverBatch) -> ObserverResult:
        noted = [message for message in batch.messages if (message.seq or 0) % self._step == 0]
        rows = [
            NewObservation(
                kind="fact",
                priority="medium",
                text=f"noted {message.text[:80]}",
                sources=(Source(message_id=message.id),),
            )
            for message in noted
        ]
        there = {message.id for message in noted}
        nothing = tuple([message.id for message in batch.messages if message.id not in there])
        return ObserverResult(rows=tuple(rows), nothing=nothing)


def answer(request: ModelRequest) -> ModelResponse:
    return ModelResponse(parts=(TextPart("Fine, and you?"),), usage=Usage(input_tokens=20, output_tokens=5))


async def measure(length: int, notes: int | None) -> tuple[float, float, int]:
    """Best and mean milliseconds of CPU of a turn, and the tokens of its prompt; `None`: without notes."""
    with tempfile.TemporaryDirectory() as folder:
        step = max(1, length // (notes or 1))
        settings = None if notes is None else ObservationalMemory(observer=OneIn(step))
        url = f"sqlite:///{Path(folder) / 'chat.db'}"
        async with Memory(url, observational_memory=settings or False) as memory:
            thread = memory.resource("ana").thread("t")
            for first in range(0, length, 500):
                await thread.save(
                    [
                        Message.user(f"message {n} of a long talk on many things")
                        for n in range(first, first + 500)
                    ]
                )
            if settings is not None and length:
                status = await thread.observations.update(force=True)
                done = Activation(thread_id="t", to_seq=status.observed_seq, now=memory.now())
                await memory.store.activate_observations("ana", done)
            agent = Agent("helper", model=ScriptedModel(answer), memory=memory)
            spent = []
            for _ in range(TURNS + 5):
                began = time.process_time()
                result = await agent.generate("How are you?", resource="ana", thread="t")
                spent.append(1000 * (time.process_time() - began))
            spent = spent[5:]
            return min(spent), sum(spent) / len(spent), result.context.tokens


async def main() -> None:
    print(f"{'messages':>8} {'notes':>6} {'tokens':>7} {'best ms':>8} {'mean ms':>8}")
    for notes in (None, 25, 100, 250):
        for length in (0, 1_000, 10_000):
            if length or notes in (None, 25):
                best, mean, tokens = await measure(length, notes)
                shown = "off" if notes is None else notes if length else 0
                print(f"{length:>8,} {shown:>6} {tokens:>7,} {best:>8.2f} {mean:>8.2f}")


if __name__ == "__main__":
    asyncio.run(main())

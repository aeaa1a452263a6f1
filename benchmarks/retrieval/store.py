"""The same questions asked of a `Memory`, as an application does: saved in threads, recalled by `recall`."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from threadmark import Memory, Message, SemanticRecall, Speaker
from threadmark.memory.recall.render import choose
from threadmark.memory.recall.turn import recall_for_turn
from threadmark.memory.tokens import estimate_tokens
from threadmark.recall.rank import Ranked
from threadmark.recall.select import within_budget

from .data import Conversation, Turn
from .metrics import score

BATCH = 200


def run(
    conversations: Iterable[Conversation], embedder: Any
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """One row a question, and CPU milliseconds a message and a question. `embedder=None` is lexical."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_run(list(conversations), embedder, Path(folder) / "recall.db"))


async def _run(
    conversations: list[Conversation], embedder: Any, file: Path
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    rows: list[dict[str, Any]] = []
    settings = SemanticRecall(mode="lexical" if embedder is None else "hybrid", embedder=embedder)
    async with Memory(f"sqlite:///{file}", semantic_recall=settings) as memory:
        started = time.process_time()
        for conversation in conversations:
            user = memory.resource(conversation.id)
            for number, thread in enumerate(conversation.threads):
                said = [_message(turn) for turn in thread]
                for first in range(0, len(said), BATCH):
                    await user.thread(f"t{number:05}").save(said[first : first + BATCH])
        await memory.settled()
        indexing = time.process_time() - started
        asking = 0.0
        for conversation in conversations:
            user = memory.resource(conversation.id)
            tokens = {turn.id: turn.tokens for thread in conversation.threads for turn in thread}
            thread_of = {turn.id: t for t, thread in enumerate(conversation.threads) for turn in thread}
            for question in conversation.questions:
                started = time.process_time()
                found = await user.recall(question.text, top_k=100, window=0)
                asking += time.process_time() - started
                if found.degraded:
                    raise RuntimeError(found.degraded)
                around = await user.recall(question.text)
                shown = [message.id for message in around.messages]
                spent = sum(tokens[id_] for id_ in shown)
                ranked = [hit.message.id for hit in found]
                places = [Ranked(0, place, hit.score, hit.why.rank) for place, hit in enumerate(found)]
                fit = within_budget(places, {(0, p): tokens[id_] for p, id_ in enumerate(ranked)}, spent)
                turn = await recall_for_turn(
                    memory.recaller,
                    conversation.id,
                    "",
                    memory.settings,
                    history=(),
                    input=[Message.user(question.text)],
                )
                blocks = choose(turn, (), settings.max_tokens, estimate_tokens)
                prompt = [id_ for block in blocks for id_ in block.sources]
                row: dict[str, Any] = score(
                    ranked,
                    question.gold,
                    tokens=tokens,
                    thread_of=thread_of,
                    window=shown,
                    context=[ranked[place] for _, place in fit],
                )
                row["prompt"] = len(set(prompt) & set(question.gold)) / len(set(question.gold))
                row["prompt_tokens"] = float(sum(estimate_tokens(block.text) for block in blocks))
                rows.append(
                    {
                        "conversation": conversation.id,
                        "id": question.id,
                        "category": question.category,
                        **row,
                    }
                )
        messages = sum(len(thread) for c in conversations for thread in c.threads)
    return rows, {
        "index_ms": 1e3 * indexing / max(1, messages),
        "query_ms": 1e3 * asking / max(1, len(rows)),
        "bytes": (await asyncio.to_thread(file.stat)).st_size / max(1, messages),
    }


def _message(turn: Turn) -> Message:
    return Message(
        id=turn.id,
        role=turn.role,  # type: ignore[arg-type]
        text=turn.text,
        speaker=None if turn.speaker is None else Speaker(id=turn.speaker, name=turn.speaker),
        created_at=None if turn.at is None else datetime.fromtimestamp(turn.at, UTC),
    )

"""LongMemEval and LoCoMo as conversations to live through, and questions with answers.

The data is not part of this repository: give the path of your copy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.retrieval.data import Conversation, load

_LOCOMO = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its answer. `at` is when it is asked, `unanswerable` whether "unknown" is right."""

    id: str
    text: str
    answer: str
    category: str
    at: datetime | None = None
    unanswerable: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """One person's conversations, in order, and what is asked about them."""

    conversation: Conversation
    questions: tuple[Asked, ...]


def read(path: Path) -> list[Case]:
    """The cases of `longmemeval_*.json` or `locomo10.json`. Raises `ValueError` for anything else."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else None
    if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict):
        raise ValueError(f"{str(path)!r} is neither LongMemEval nor LoCoMo")
    conversations = load(path)
    questions = _locomo if "qa" in rows[0] else _longmemeval
    return [
        Case(conversation, tuple(questions(conversation, row)))
        for conversation, row in zip(conversations, rows, strict=True)
    ]


def _longmemeval(conversation: Conversation, row: dict[str, Any]) -> Iterator[Asked]:
    yield Asked(
        id=str(row["question_id"]),
        text=row["question"],
        answer=str(row["answer"]),
        category=row["question_type"],
        at=_date(row.get("question_date")),
        unanswerable=str(row["question_id"]).endswith("_abs"),
    )


def _locomo(conversation: Conversation, row: dict[str, Any]) -> Iterator[Asked]:
    times = [turn.at for thread in conversation.threads for turn in thread if turn.at is not None]
    at = datetime.fromtimestamp(max(times), UTC) if times else None
    for number, item in enumerate(row["qa"]):
        adversarial = item["category"] == 5
        yield Asked(
            id=f"{conversation.id}:{number}",
            text=item["question"],
            answer=str(item.get("answer", item.get("adversarial_answer", ""))),
            category=_LOCOMO.get(item["category"], str(item["category"])),
            at=at,
            unanswerable=adversarial,
        )


def _date(text: str | None) -> datetime | None:
    """ "2023/05/30 (Tue) 23:40" in UTC."""
    try:
        day, _, rest = (text or "").partition(" ")
        clock = rest.rpartition(" ")[2] or "00:00"
        return datetime.strptime(f"{day} {clock}", "%Y/%m/%d %H:%M").replace(tzinfo=UTC)
    except ValueError:
        return None

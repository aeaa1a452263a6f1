"""Reading the public sets into one form. The data itself is not part of this repository."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. `speaker` is `None` where the set knows only a user and an assistant."""

    id: str
    role: str
    speaker: str | None
    at: float | None
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Question:
    id: str
    text: str
    category: str
    gold: tuple[str, ...]


@dataclass(slots=True)
class Conversation:
    """One owner's memory: its threads in order, and the questions about it."""

    id: str
    threads: list[list[Turn]]
    questions: list[Question] = field(default_factory=list)


def load(path: Path) -> list[Conversation]:
    """Read a set in any known form; the form is told from the content.

    A folder with `conversations.jsonl` and `questions.jsonl`; LoCoMo's `locomo10.json`; LongMemEval's
    `longmemeval_*.json`; a BEAM folder with one sub-folder a chat (`chat*.json`, `probing_questions.json`).
    Raises `ValueError` when it is none of these.
    """
    if path.is_dir():
        if (path / "conversations.jsonl").exists():
            return _jsonl(path)
        chats = sorted(path.glob("**/probing_questions*/probing_questions.json")) or sorted(
            path.glob("**/probing_questions.json")
        )
        if chats:
            return [_beam(p) for p in chats]
    elif path.suffix == ".json":
        rows = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(rows, list) and rows and "qa" in rows[0]:
            return [_locomo(i, row) for i, row in enumerate(rows)]
        if isinstance(rows, list) and rows and "haystack_sessions" in rows[0]:
            return [_longmemeval(row) for row in rows]
    raise ValueError(f"{str(path)!r} is no set in a known form")


def estimate_tokens(text: str) -> int:
    """Where a set gives no token counts: some 4 characters a token, 1 in other scripts."""
    other = sum(c > "\u02ff" for c in text)
    return max(1, round((len(text) - other) / 4.2 + other))


def _seconds(when: str | None) -> float | None:
    if not when:
        return None
    try:
        moment = datetime.fromisoformat(when)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _turn(
    id_: str, role: str, speaker: str | None, at: float | None, text: str, tokens: int | None = None
) -> Turn:
    named = speaker if speaker and speaker.lower() not in ("user", "assistant") else None
    return Turn(id_, role, named, at, text, estimate_tokens(text) if tokens is None else tokens)


def _jsonl(folder: Path) -> list[Conversation]:
    def rows(name: str) -> Iterator[dict[str, Any]]:
        with (folder / name).open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)

    found = {}
    for row in rows("conversations.jsonl"):
        threads = [
            [
                _turn(m["id"], m["role"], m["speaker"], _seconds(m["ts"]), m["text"], m["n_tokens"])
                for m in t["messages"]
            ]
            for t in row["threads"]
        ]
        found[row["conv_id"]] = Conversation(row["conv_id"], threads)
    for q in rows("questions.jsonl"):
        if q["scored"] and q["conv_id"] in found:
            found[q["conv_id"]].questions.append(
                Question(q["qid"], q["question"], q["category"], tuple(q["evidence"]))
            )
    return list(found.values())


_LOCOMO = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}


def _locomo(number: int, row: dict[str, Any]) -> Conversation:
    talk = row["conversation"]
    threads = []
    numbers = sorted(int(m[1]) for k in talk if (m := re.fullmatch(r"session_(\d+)", k)))
    for n in numbers:
        at = _locomo_time(talk.get(f"session_{n}_date_time"))
        thread = []
        for turn in talk[f"session_{n}"]:
            caption = turn.get("blip_caption")
            text = turn.get("text", "") + (f" [shares a photo: {caption}]" if caption else "")
            thread.append(_turn(turn["dia_id"], "user", turn["speaker"], at, text))
        threads.append(thread)
    known = {turn.id for thread in threads for turn in thread}
    conversation = Conversation(str(row.get("sample_id", number)), threads)
    for i, q in enumerate(row["qa"]):
        gold = _locomo_ids(q.get("evidence", []), known)
        if gold:
            conversation.questions.append(
                Question(
                    f"{conversation.id}:{i}",
                    q["question"],
                    _LOCOMO.get(q["category"], str(q["category"])),
                    gold,
                )
            )
    return conversation


def _locomo_time(text: str | None) -> float | None:
    try:
        return datetime.strptime(text or "", "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _locomo_ids(evidence: Iterable[str], known: set[str]) -> tuple[str, ...]:
    """Dialogue ids, malformed ones ("D8:6; D9:17", "D:11:26") put right where that is clear."""
    found = [f"D{int(a)}:{int(b)}" for item in evidence for a, b in re.findall(r"D?:?(\d+):(\d+)", str(item))]
    return tuple(dict.fromkeys(i for i in found if i in known))


def _longmemeval(row: dict[str, Any]) -> Conversation:
    threads, gold = [], []
    dates = row.get("haystack_dates") or [None] * len(row["haystack_sessions"])
    names = row.get("haystack_session_ids") or [str(i) for i in range(len(row["haystack_sessions"]))]
    for name, when, session in zip(names, dates, row["haystack_sessions"], strict=True):
        at = _longmemeval_time(when)
        thread = []
        for i, turn in enumerate(session):
            id_ = f"{name}:{i}"
            thread.append(_turn(id_, turn["role"], None, at, turn["content"]))
            if turn.get("has_answer"):
                gold.append(id_)
        threads.append(thread)
    conversation = Conversation(row["question_id"], threads)
    if gold and not row["question_id"].endswith("_abs"):
        conversation.questions.append(
            Question(row["question_id"], row["question"], row["question_type"], tuple(gold))
        )
    return conversation


def _longmemeval_time(text: str | None) -> float | None:
    match = re.match(r"(\d{4})/(\d\d)/(\d\d)(?:\D+(\d\d):(\d\d))?", text or "")
    if not match:
        return None
    year, month, day, hour, minute = [int(group or 0) for group in match.groups()]
    return datetime(year, month, day, hour, minute, tzinfo=UTC).timestamp()


_MARK = re.compile(r"\s*->->\s*[\d,\s]*\Z")
"""A plan's bullet that a message came from, left at its end."""


def _beam(questions: Path) -> Conversation:
    folder = questions.parent.parent if questions.parent.name == "probing_questions" else questions.parent
    files = sorted(folder.glob("chat*.json"), key=lambda p: ("trunc" not in p.name, p.name))
    if not files:
        raise ValueError(f"{str(folder)!r} has questions but no chat*.json")
    threads, ids_seen = [], set()
    at = None
    for batch in json.loads(files[0].read_text(encoding="utf-8")):
        thread = []
        for turn in batch.get("turns", []):
            for message in turn if isinstance(turn, list) else [turn]:
                # Only the first message of a day names it.
                at = _beam_time(message.get("time_anchor") or batch.get("time_anchor")) or at
                id_ = str(message["id"])
                ids_seen.add(id_)
                thread.append(_turn(id_, message["role"], None, at, _MARK.sub("", message["content"])))
        threads.append(thread)
    conversation = Conversation(f"{folder.parent.name}-{folder.name}", threads)
    for category, items in json.loads(questions.read_text(encoding="utf-8")).items():
        for i, item in enumerate(items):
            gold = tuple(g for g in _ids(item.get("source_chat_ids")) if g in ids_seen)
            if gold and category != "abstention":
                conversation.questions.append(
                    Question(f"{conversation.id}:{category}:{i}", item["question"], category, gold)
                )
    return conversation


def _ids(value: Any) -> list[str]:
    """Every id in a nested value, once, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return list(dict.fromkeys(i for item in value for i in _ids(item)))
    return [] if value is None else [str(value)]


def _beam_time(text: str | None) -> float | None:
    for form in ("%B-%d-%Y", "%B %d, %Y", "%Y-%m-%d"):
        try:
            return datetime.strptime(text or "", form).replace(tzinfo=UTC).timestamp()
        except ValueError:
            continue
    return None

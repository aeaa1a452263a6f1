"""A small lexical search over one owner's messages: which sentences share words with a question.

A word weighs more the fewer messages have it. A sentence's score is the weight of the question's words that
it has, however long it is and however often it has them, so of two statements about one thing the newer is
not behind the older for its wording.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import log1p
from typing import Literal, TypeAlias

from .._types import Message, StepPart
from ..memory.resource import Resource
from ._words import is_question, sentences, words

MODEL_NAME = "offline:responder"
"""What the offline responder's answers are stored under; they are never quoted."""

Kind: TypeAlias = Literal["said", "answered", "asked"]

_WHO_AM_I = re.compile(r"\bwho am i\b", re.IGNORECASE)
_NEAR = 0.8  # Scores within this share of the best are one group, newest first.
_CUT = 0.5  # Scores below this share of the best are left out.
_LEAST = 0.15  # Least share of the question's weight that a sentence must have.
_LONGEST = 300  # Characters of one quote.


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A sentence of a stored message, verbatim.

    `kind` is "said" for a user's statement, "asked" for a user's question, "answered" for an assistant's
    sentence. `whole` is false when only a part of an overlong sentence is given. `covers` is the share of the
    question, from 0 to 1, that it has.
    """

    text: str
    message: Message
    title: str
    kind: Kind
    covers: float
    whole: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The best quotes, and how much was searched: `searched` of the owner's `total` messages."""

    quotes: tuple[Quote, ...]
    searched: int
    total: int


async def search(
    resource: Resource,
    question: str,
    *,
    limit: int = 3,
    newest: int = 2000,
    skip: Collection[str] = (),
) -> Found:
    """Sentences of the owner's `newest` messages that share words with `question`, the best `limit` of them.

    A user's statements come before an assistant's sentences, and questions come only when nothing else is
    found. Of about equally good ones the newest comes first. A question of no words of its own ("What do you
    know of me?") finds the newest statements. Messages whose ids are in `skip` are passed over.
    """
    page = await resource.messages(per_page=newest, order="desc")
    messages = [message for message in page if message.id not in skip and not _is_own_answer(message)]
    wanted = set(words(question))
    if not wanted and _WHO_AM_I.search(question):
        wanted = set(words("name"))
    hits = _rank(messages, wanted) if wanted else _latest(messages, limit)
    chosen = hits[:limit]
    titles = {}
    for hit in chosen:
        if hit.message.thread_id and hit.message.thread_id not in titles:
            thread = await resource.threads.get(hit.message.thread_id)
            titles[hit.message.thread_id] = thread.title if thread is not None else ""
    quotes = tuple([_quote(hit, titles.get(hit.message.thread_id or "", ""), wanted) for hit in chosen])
    skipped = sum(1 for message in page if message.id in skip)
    return Found(quotes=quotes, searched=len(page) - skipped, total=page.total - skipped)


@dataclass(frozen=True, slots=True)
class _Hit:
    sentence: str
    message: Message
    kind: Kind
    score: float
    covers: float
    age: int  # 0 is the newest message


def _is_own_answer(message: Message) -> bool:
    return any(isinstance(part, StepPart) and part.model == MODEL_NAME for part in message.parts)


def _kind(message: Message, sentence: str) -> Kind | None:
    """What quoting this sentence would be. An assistant's question is never worth a quote."""
    if is_question(sentence):
        return None if message.role == "assistant" else "asked"
    return "answered" if message.role == "assistant" else "said"


def _latest(messages: Sequence[Message], limit: int) -> list[_Hit]:
    hits: list[_Hit] = []
    for age, message in enumerate(messages):
        if message.role == "user":
            hits += [
                _Hit(sentence, message, "said", 1.0, 1.0, age)
                for sentence in sentences(message.text)
                if not is_question(sentence) and words(sentence)
            ]
        if len(hits) >= limit:
            break
    return hits


def _rank(messages: Sequence[Message], wanted: set[str]) -> list[_Hit]:
    shared = [wanted.intersection(words(message.text)) for message in messages]
    seen = dict.fromkeys(wanted, 0)
    for some in shared:
        for word in some:
            seen[word] += 1
    weight = {word: _weight(len(messages), count) for word, count in seen.items()}
    whole = sum(weight.values())
    hits: list[_Hit] = []
    for age, (message, some) in enumerate(zip(messages, shared, strict=True)):
        if not some:
            continue
        for sentence in sentences(message.text):
            score = sum(weight[word] for word in some.intersection(words(sentence)))
            kind = _kind(message, sentence)
            if kind is not None and score >= _LEAST * whole:
                hits.append(_Hit(sentence, message, kind, score, score / whole, age))
    answers = [hit for hit in hits if hit.kind != "asked"] or hits
    if not answers:
        return []
    best = max(hit.score for hit in answers)
    answers = [hit for hit in answers if hit.score >= _CUT * best]
    answers.sort(key=lambda hit: (hit.kind != "said", hit.score < _NEAR * best, hit.age))
    return _distinct(answers)


def _weight(messages: int, count: int) -> float:
    """The weight of a word that `count` of `messages` have; one that none has weighs like a rare one."""
    count = max(count, 1)
    return log1p((messages - count + 0.5) / (count + 0.5)) + 0.1


def _distinct(hits: Sequence[_Hit]) -> list[_Hit]:
    """The newest of sentences that say the same in the same words."""
    seen: dict[str, _Hit] = {}
    for hit in hits:
        seen.setdefault(hit.sentence.casefold(), hit)
    return list(seen.values())


def _quote(hit: _Hit, title: str, wanted: set[str]) -> Quote:
    text = _excerpt(hit.sentence, wanted)
    return Quote(
        text=text,
        message=hit.message,
        title=title,
        kind=hit.kind,
        covers=hit.covers,
        whole=text == hit.sentence,
    )


def _excerpt(sentence: str, wanted: set[str]) -> str:
    """The sentence, or, if it is overlong, a piece of it around its first wanted word."""
    if len(sentence) <= _LONGEST:
        return sentence
    start = 0
    while start + _LONGEST < len(sentence) and not wanted.intersection(
        words(sentence[start : start + _LONGEST])
    ):
        start += _LONGEST // 2
    piece = sentence[start : start + _LONGEST]
    if start and " " in piece[:40]:
        piece = piece[piece.index(" ") :]
    if start + _LONGEST < len(sentence) and " " in piece[-40:]:
        piece = piece[: piece.rindex(" ")]
    return piece.strip() or sentence[:_LONGEST]

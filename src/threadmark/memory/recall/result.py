"""What recall gives back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ..._types import Message
from ...stores.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallReason:
    """Why a message or an observation was recalled.

    The score is the sum of `scores`: of `lexical` (the share of the question's weight that the message's own
    words cover, about 1 for all of it), `semantic` (how far its meaning stands out from the owner's other
    messages), `context` (what the messages around it cover), `first` (a first place in one of the two), and
    what the question says about `speaker` and `day`; `person` is for what people wrote, `thread` for its
    thread's best message; `recency` and `rerank` where asked for. Parts that are 0 are left out.
    """

    rank: int
    scores: Mapping[str, float]
    terms: tuple[str, ...] = ()
    """Words of the question, as the index has them, that the message holds."""
    sources: tuple[str, ...] = ()
    """Ids of the messages that the hit stands for: its own, or those that the observation comes from."""
    window: tuple[str, ...] = ()
    """Ids of the hit and of the neighbours that came along, in order."""

    @property
    def lexical(self) -> float:
        """The part of words."""
        return self.scores.get("lexical", 0.0)

    @property
    def semantic(self) -> float:
        """The part of meaning."""
        return self.scores.get("semantic", 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """A message that was found, its score, why, and its neighbours (itself among them), in order."""

    message: Message
    score: float
    why: RecallReason
    window: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecalledObservation:
    """An observation that was found, its score, and why. `why.sources` are the messages behind it.

    Its `id` ("o41") and `thread_id` stand in `observation`. Scores of observations and of messages are not
    of one scale.
    """

    observation: Observation
    score: float
    why: RecallReason


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallResult:
    """What was found for a question, best first: messages as `hits`, and `observations` of their own.

    `messages` are all hits and neighbours, each once, in order of thread and `seq`. `mode` says which arms
    answered; `degraded` why one that was asked for did not, `None` if all did. `indexed` counts the owner's
    messages in the index, `embedded` those with vectors of the embedder used: fewer mean that some wait.
    `language` is that of the index's words.
    """

    query: str
    hits: tuple[Recalled, ...] = ()
    messages: tuple[Message, ...] = ()
    mode: Literal["lexical", "vector", "hybrid"] = "lexical"
    degraded: str | None = None
    indexed: int = 0
    embedded: int = 0
    observations: tuple[RecalledObservation, ...] = ()
    language: str = "english"

    def __iter__(self) -> Iterator[Recalled]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

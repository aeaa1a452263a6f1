"""Searching observations: requests, answers and the operation of stores that also keep a recall index.

A store that declares "recall" and "observations" indexes each observation in the transaction that adds it,
and takes it out in the one that removes it. Observations are a collection of their own beside the owner's
messages: statistics of one know nothing of the other, so what was noted changes no search for messages.
They wait for vectors in the same outbox as messages do.

What is indexed of an observation is its text, its subject, and the words that it quotes from its sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..._errors import ConfigurationError
from ..._ids import check_choice
from ._observations import Observation
from ._recall import RecallQuery

if TYPE_CHECKING:
    from ...recall.rank import Why

View: TypeAlias = Literal["current", "live", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationSearch:
    """A search in one owner's observations.

    `recall` says what is looked for and how many are wanted; its `before` and `after` are not used. Its
    filter speaks of messages: an observation passes if every message that it comes from does (of a summary:
    every message behind its rows). One that names no message passes only a filter that asks nothing of
    messages but their thread. With `speaker_id` or `speakers`, the observation itself has to be of such a
    speaker, and nobody else's message behind it; the assistant's may be.

    `view`: "current" finds what no summary stands for, whether or not a model sees it yet; "live" also what
    summaries stand for; "all" also what was superseded or retired. The line that is left in a view for rows
    of low priority is never found, and hides none of them. `as_of` and `valid_at` are those of
    `ObservationQuery`; with one of them `view` is not used. `exclude` are ids of observations to leave out.
    """

    recall: RecallQuery
    view: View = "current"
    as_of: datetime | None = None
    valid_at: datetime | None = None
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("view", self.view, ("current", "live", "all"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationHit:
    """An observation that was found. `why` holds the parts of its score; the first hit has `rank` 1.

    `sources` are the ids of the messages behind it, oldest first: of a summary, of all its rows.
    """

    observation: Observation
    score: float
    rank: int
    why: Why
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationAnswer:
    """What a search found, best first. `indexed` counts the owner's observations in the index, `embedded`
    those of them with vectors in the query's space."""

    hits: tuple[ObservationHit, ...] = ()
    indexed: int = 0
    embedded: int = 0


class ObservationSearchStore:
    """The search, of stores that declare the capabilities "recall" and "observations"."""

    async def search_observations(self, owner: str, search: ObservationSearch) -> ObservationAnswer:
        """Rank the owner's observations. Raises `ConfigurationError` while recall is off.

        Also raises it for an unknown space and a vector of another dimension.
        """
        raise ConfigurationError(
            f"{type(self).__name__} cannot search observations; use a store with the capabilities 'recall' "
            "and 'observations'"
        )

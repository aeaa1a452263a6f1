"""Answering searches in observations: which of them may be found, and the ranking.

`Admission` is spoken to PostgreSQL too (`_dialect`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..._codec import to_json
from ..._errors import ConfigurationError
from ..._ids import check_id
from ...recall import gather
from ...recall.gather import SEQ_BITS, Scope
from ...recall.query import Query, parse_query
from ...recall.rank import Ranked, Settings
from ..base import (
    Observation,
    ObservationAnswer,
    ObservationHit,
    ObservationSearch,
    RecallFilter,
)
from . import _observation_index as observed
from . import _recall_search, _recall_spaces
from ._driver import Connection
from ._observations import COLUMNS, believed, numbers_of, to_values
from ._recall_index import SqlSource, find_owner
from ._recall_vectors import CodeCache, VectorSource

FEW = 20
"""How many observations are ranked at least: of those that are found, some may have nothing to say."""


RESCORED = 128
"""How many are measured by whole vectors."""
MOST_POSTINGS = 6_000
"""How much of the index a question reads: beyond that its commonest terms, which tell least, are left out."""


class Admission:
    """Which of the owner's observations a search may find, and what is told of those that it found.

    `scope` is what the filter allows of messages; it is made with `of_messages`, which the store applies.
    """

    def __init__(
        self,
        db: Connection,
        owner: str,
        search: ObservationSearch,
        scope: Callable[[RecallFilter], Scope | None],
    ) -> None:
        self._db = db
        self._owner = owner
        self._search = search
        wanted = search.recall.filter
        self._speakers = frozenset(wanted.speakers)
        self._speaker = None if wanted.speaker_id is None else check_id("speaker", wanted.speaker_id)
        of_messages = replace(wanted, speaker_id=None, speakers=())
        self._asks = replace(of_messages, thread_ids=None, thread_metadata={}) != RecallFilter()
        self._scope = scope(of_messages)

    @property
    def possible(self) -> bool:
        """Whether any observation can pass."""
        return self._scope is not None

    @property
    def scope(self) -> Scope:
        return Scope(passes=self._passes)

    def _passes(self, keys: Sequence[int]) -> set[int]:
        scope = self._scope
        assert scope is not None
        where, params = believed(self._search.view, self._search.as_of, self._search.valid_at, seen=False)
        rows = self._db.execute(
            # The plus keeps SQLite from going through all observations of the owner.
            "SELECT o.key, o.thread_number, o.speaker_id FROM observations AS o WHERE +o.resource_id = ? "
            f"AND o.key IN (SELECT value FROM json_each(?)) AND {' AND '.join(where)} "
            "AND NOT o.number IN (SELECT value FROM json_each(?))",
            (
                self._owner,
                to_json([-key for key in keys]),
                *params,
                to_json(numbers_of(self._search.exclude)),
            ),
        )
        if scope.threads is not None:
            rows = [row for row in rows if row[1] in scope.threads]
        by_speaker = self._speaker is not None or bool(self._speakers)
        if not rows or not (self._asks or by_speaker):
            return {-row[0] for row in rows}
        behind = observed.behind(self._db, self._owner, [row[0] for row in rows])
        messages = list({message[0] for found in behind.values() for message in found})
        allowed = set(scope.admit(messages))
        return {
            -key
            for key, _, speaker in rows
            if (found := behind.get(key))
            and all(message[0] in allowed for message in found)
            and (not by_speaker or self._said_by(speaker, found))
        }

    def _said_by(self, speaker: str | None, found: Sequence[tuple[int, str, str | None, str | None]]) -> bool:
        people = {(id_, name) for _, _, id_, name in found if id_ is not None}
        if speaker is None or not people:
            return False
        if self._speaker is not None and (
            speaker != self._speaker or any(id_ != speaker for id_, _ in people)
        ):
            return False
        return not self._speakers or all(name in self._speakers for _, name in people)

    def hits(self, ranked: Sequence[Ranked]) -> tuple[ObservationHit, ...]:
        """The observations that were found."""
        keys = [-key_of(place) for place in ranked]
        columns = ", ".join([f"o.{column}" for column in COLUMNS.split(", ")])
        rows: list[Any] = self._db.execute(
            f"SELECT {columns} FROM observations AS o "
            "WHERE +o.resource_id = ? AND o.key IN (SELECT value FROM json_each(?))",
            (self._owner, to_json(keys)),
        )
        values: dict[int, Observation] = dict(
            zip([row[0] for row in rows], to_values(self._db, self._owner, rows, None), strict=True)
        )
        behind = observed.behind(self._db, self._owner, keys)
        return tuple(
            [
                ObservationHit(
                    observation=values[key],
                    score=place.score,
                    rank=place.rank,
                    why=place.why,
                    sources=tuple([id_ for _, id_, _, _ in behind.get(key, ())]),
                )
                for key, place in zip(keys, ranked, strict=True)
            ]
        )


def key_of(place: Ranked) -> int:
    return (place.thread << SEQ_BITS) + place.seq


def ranking(
    source: Any, query: Query, vector: Sequence[float] | None, search: ObservationSearch, scope: Scope
) -> list[Ranked]:
    """The places that were asked for. An observation stands for itself: those beside it lend it nothing."""
    recall = search.recall
    settings = replace(recall.settings or Settings(), context=(), semantic_context=0.0, thread=0.0)
    end = recall.offset + recall.limit
    found = gather.search(
        source,
        query,
        vector=vector,
        lexical=recall.lexical,
        limit=max(FEW, end),
        pool=FEW,
        max_postings=MOST_POSTINGS,
        settings=settings,
        scope=scope,
    )
    speaking = [place for place in found if place.why.lexical > 0 or place.why.semantic > 0]
    if recall.threshold is not None:
        speaking = [place for place in speaking if place.score >= recall.threshold]
    return [replace(place, rank=rank) for rank, place in enumerate(speaking[:end], 1)][recall.offset :]


def search(db: Connection, cache: CodeCache, owner: str, search: ObservationSearch) -> ObservationAnswer:
    request = search.recall
    _recall_search.need_on(db)
    number, dimension = (0, 0) if request.space is None else _recall_spaces.need(db, request.space)
    if request.vector is not None and len(request.vector) != 4 * dimension:
        raise ConfigurationError(
            f"space {request.space!r} has vectors of {dimension} values; the query's has "
            f"{len(request.vector) / 4:g}"
        )
    owner_no = find_owner(db, owner)
    source = SqlSource(db, 0 if owner_no is None else -owner_no)
    size = 0 if owner_no is None else source.size()
    if owner_no is None or not size:
        return ObservationAnswer()
    admission = Admission(db, owner, search, lambda wanted: _recall_search.scope_of(db, owner, wanted))
    if not admission.possible:
        return ObservationAnswer(indexed=size)
    query = request.query
    if isinstance(query, str):
        query = parse_query(query, speakers=SqlSource(db, owner_no).speakers())
    embedded = 0
    if request.vector is not None:
        source = VectorSource(db, -owner_no, number, cache=cache, rescore=RESCORED)
        embedded = source.embedded()
    vector = None if request.vector is None else _recall_search.floats(request.vector)
    ranked = ranking(source, query, vector, search, admission.scope)
    return ObservationAnswer(hits=admission.hits(ranked), indexed=size, embedded=embedded)

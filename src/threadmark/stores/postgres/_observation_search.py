"""Answering searches in observations. What is found, and how it ranks, is `sqlite._observation_search`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..._errors import ConfigurationError
from ...recall.query import in_language
from ...recall.rank import Record
from ..base import ObservationAnswer, ObservationSearch
from ..sqlite import _observation_index as observed
from ..sqlite._observation_search import Admission, ranking
from . import _recall_search, _recall_spaces
from ._names import Names
from ._observations import spoken
from ._recall_search import SqlSource, VectorSource
from ._session import Session


class _Records:
    """What the ranking needs to know of observations: looked up by their keys in the index."""

    def __init__(self, dialect: Any) -> None:
        self._spoken = dialect

    def records(self, keys: Iterable[int]) -> dict[int, Record]:
        entries = observed.entries(self._spoken, [-key for key in keys if -(1 << 63) < key < 0])
        return {row.key: row.record for rows in entries.values() for row in rows}


class _Words(_Records, SqlSource):
    def __init__(self, db: Session, names: Names, owner: str, owner_no: int, dialect: Any) -> None:
        SqlSource.__init__(self, db, names, owner, -owner_no)
        _Records.__init__(self, dialect)


class _Vectors(_Records, VectorSource):
    def __init__(
        self, db: Session, names: Names, owner: str, owner_no: int, space_no: int, vector: Any, dialect: Any
    ) -> None:
        VectorSource.__init__(self, db, names, owner, -owner_no, space_no, vector)
        _Records.__init__(self, dialect)


def search(db: Session, names: Names, owner: str, search: ObservationSearch) -> ObservationAnswer:
    request = search.recall
    dialect = spoken(db, names)
    owner_no, speakers, language = _recall_search.begin(db, names, owner)
    number, dimension = (0, 0) if request.space is None else _recall_spaces.need(db, names, request.space)
    if request.vector is not None and len(request.vector) != 4 * dimension:
        raise ConfigurationError(
            f"space {request.space!r} has vectors of {dimension} values; the query's has "
            f"{len(request.vector) / 4:g}"
        )
    if owner_no is None:
        return ObservationAnswer()
    source: Any = _Words(db, names, owner, owner_no, dialect)
    size = source.size()
    if not size:
        return ObservationAnswer()
    admission = Admission(
        dialect, owner, search, lambda wanted: _recall_search.scope_of(db, names, owner, wanted)
    )
    if not admission.possible:
        return ObservationAnswer(indexed=size)
    query = in_language(request.query, language, lambda: speakers)
    vector = None
    embedded = 0
    if request.vector is not None:
        vector = _recall_search.floats(request.vector)
        source = _Vectors(db, names, owner, owner_no, number, vector, dialect)
        source.measure()
        embedded = source.embedded
    ranked = ranking(source, query, vector, search, admission.scope)
    return ObservationAnswer(hits=admission.hits(ranked), indexed=size, embedded=embedded)

"""Answering searches: one owner's index as a source for the ranking, and the messages that it names."""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from ..._errors import ConfigurationError
from ..._ids import check_count, check_filter, check_id, utc
from ..._types import MessagePage
from ...recall import gather
from ...recall.gather import EVERYTHING, Scope
from ...recall.query import FUNCTION_WORD, Query, in_language, parse_query
from ...recall.rank import Background, Record
from ...recall.threads import rank_threads
from ..base import MatchQuery, RecallAnswer, RecallFilter, RecallHit, RecallQuery, Scalar, ThreadHit
from . import _messages, _recall_spaces
from ._names import Names
from ._rows import (
    MESSAGE_COLUMNS,
    SEQ_BITS,
    THREAD_COLUMNS,
    is_plain,
    message_from_row,
    metadata_clause,
    thread_from_row,
)
from ._session import Session

_SEQ_MASK = (1 << SEQ_BITS) - 1
_LABEL = "coalesce(nullif(m.speaker_name, ''), m.speaker_id)"


class SqlSource:
    """One owner's index, as `gather.search` reads it."""

    def __init__(self, db: Session, names: Names, owner: str, owner_no: int) -> None:
        self._db = db
        self._names = names
        self._owner = owner
        self._number = owner_no
        self._postings = f"{names.schema}.recall_postings"
        self._docs = f"{names.schema}.recall_docs"
        self._size: int | None = None

    def size(self) -> int:
        if self._size is None:
            counted = self._db.rows(f"SELECT count(*) FROM {self._docs} WHERE owner_no = %s", (self._number,))
            self._size = int(counted[0][0])
        return self._size

    def keys(self) -> list[int]:
        """All indexed messages."""
        rows = self._db.rows(f"SELECT key FROM {self._docs} WHERE owner_no = %s", (self._number,))
        return [key for (key,) in rows]

    def counts(self, terms: Sequence[str]) -> list[int]:
        found: dict[str, int] = dict(
            self._db.rows(
                f"SELECT term, count(*) FROM {self._postings} WHERE owner_no = %s AND term = ANY(%s) "
                "GROUP BY term",
                (self._number, _plain(terms)),
            )
        )
        return [int(found.get(term, 0)) for term in terms]

    def postings(self, terms: Sequence[str]) -> list[dict[int, int]]:
        # A row for each term: thousands of small ones would take longer to read than to find.
        found = {
            term: dict(zip(_unpack(keys), array("B", values), strict=True))
            for term, keys, values in self._db.packed(
                "SELECT term, string_agg(int8send(key), ''::bytea), "
                "string_agg(set_byte('\\x00'::bytea, 0, impact), ''::bytea) FROM "
                f"(SELECT term, key, impact FROM {self._postings} WHERE owner_no = %s AND term = ANY(%s) "
                "ORDER BY term, key) AS p GROUP BY term",
                (self._number, _plain(terms)),
            )
        }
        return [found.get(term, {}) for term in terms]

    def records(self, keys: Iterable[int]) -> dict[int, Record]:
        return {
            key: Record(role, speaker, at)
            for key, role, speaker, at in self._db.rows(
                f"SELECT m.key, m.role, {_LABEL}, extract(epoch FROM m.created_at)::float8 "
                f"FROM {self._docs} AS d JOIN {self._names.messages} AS m "
                "ON m.resource_id = %s AND m.key = d.key WHERE d.owner_no = %s AND d.key = ANY(%s)",
                (self._owner, self._number, [key for key in keys if 0 < key < 1 << 63]),
            )
        }

    def nearest(
        self, vector: Sequence[float], k: int, scope: Scope = EVERYTHING
    ) -> tuple[list[int], Background]:
        return [], Background()

    def cosines(self, vector: Sequence[float], keys: Iterable[int]) -> dict[int, float]:
        return {}


class VectorSource(SqlSource):
    """The same with the owner's vectors of one space: all of them are measured, so none is overlooked."""

    def __init__(
        self, db: Session, names: Names, owner: str, owner_no: int, space_no: int, vector: Sequence[float]
    ) -> None:
        super().__init__(db, names, owner, owner_no)
        self._where = where = find_pgvector(db)
        self._space = space_no
        self._text = f"[{','.join(map(repr, vector))}]"
        self._cosine = f"max(-(v.vector::{where}.vector OPERATOR({where}.<#>) %s::{where}.vector))"
        self._vectors = f"{names.schema}.recall_vectors AS v WHERE v.owner_no = %s AND v.space_no = %s"
        self.embedded = 0
        self._all: list[tuple[int, float]] = []
        self._known: dict[int, float] = {}

    def measure(self) -> None:
        """Measure every message: the best of its pieces."""
        rows = self._db.packed(
            "SELECT coalesce(string_agg(int8send(key), ''::bytea), ''), "
            "coalesce(string_agg(float8send(cosine), ''::bytea), '') FROM "
            f"(SELECT v.key, {self._cosine} AS cosine FROM {self._vectors} GROUP BY v.key "
            "ORDER BY cosine DESC, v.key) AS c",
            (self._text, self._number, self._space),
        )
        self._all = list(zip(_unpack(rows[0][0]), _unpack(rows[0][1], "d"), strict=True))
        self.embedded = len(self._all)
        self._known = dict(self._all)

    def nearest(
        self, vector: Sequence[float], k: int, scope: Scope = EVERYTHING
    ) -> tuple[list[int], Background]:
        if not self._all:
            return [], Background()
        values = [cosine for _, cosine in self._all]
        mean = sum(values) / len(values)
        spread = (sum([(value - mean) ** 2 for value in values]) / len(values)) ** 0.5
        best: list[int] = []
        first, step = 0, max(256, 4 * k)
        while first < len(self._all) and len(best) < k:
            best += scope.admit([key for key, _ in self._all[first : first + step]])
            first, step = first + step, step * 4
        return best[:k], Background(mean, spread)

    def cosines(self, vector: Sequence[float], keys: Iterable[int]) -> dict[int, float]:
        return {key: self._known[key] for key in keys if key in self._known}


def find_pgvector(db: Session) -> str:
    """The quoted schema of pgvector, which is made if that is possible. Raises `ConfigurationError`."""
    installed = "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'"
    row = db.row(installed)
    if row is None:
        db.attempt("CREATE EXTENSION IF NOT EXISTS vector")  # fails too when another was faster
        row = db.row(installed)
    if row is None:
        raise ConfigurationError(
            "vectors need the extension pgvector in the database: let a superuser run "
            "CREATE EXTENSION vector, or use recall without an embedder, by words alone"
        )
    return str(row[0])


def search(db: Session, names: Names, owner: str, request: RecallQuery) -> RecallAnswer:
    owner_no, speakers, language = begin(db, names, owner)
    number, dimension = (0, 0) if request.space is None else _recall_spaces.need(db, names, request.space)
    if request.vector is not None and len(request.vector) != 4 * dimension:
        raise ConfigurationError(
            f"space {request.space!r} has vectors of {dimension} values; the query's has "
            f"{len(request.vector) / 4:g}"
        )
    scope = None if owner_no is None else scope_of(db, names, owner, request.filter)
    if owner_no is None or scope is None:
        return RecallAnswer(language=language)
    vector = None
    source = SqlSource(db, names, owner, owner_no)
    embedded = 0
    if request.vector is not None:
        vector = floats(request.vector)
        source = _vector_source(db, names, owner, owner_no, number, vector)
        source.measure()
        embedded = source.embedded
    ranked = gather.search(
        source,
        in_language(request.query, language, lambda: speakers),
        vector=vector,
        lexical=request.lexical,
        limit=request.offset + request.limit,
        settings=request.settings,
        scope=scope,
    )[request.offset :]
    if request.threshold is not None:
        ranked = [place for place in ranked if place.score >= request.threshold]
    keys = [(place.thread << SEQ_BITS) + place.seq for place in ranked]
    rows = db.rows(*_messages.by_keys(names, owner, keys, request.before, request.after)) if keys else []
    messages = {row[0]: message_from_row(row) for row in rows}
    return RecallAnswer(
        hits=tuple(
            [
                RecallHit(message=messages[key], score=place.score, rank=place.rank, why=place.why)
                for key, place in zip(keys, ranked, strict=True)
            ]
        ),
        messages=tuple(messages.values()),
        indexed=source.size(),
        embedded=embedded,
        language=language,
    )


def _vector_source(
    db: Session, names: Names, owner: str, owner_no: int, space_no: int, vector: Sequence[float]
) -> VectorSource:
    """The owner's vectors: by their index where they have one."""
    from . import _recall_near  # it rests on this module

    row = db.row(*_recall_near.sample(names, owner_no, space_no))
    if row is None:
        return VectorSource(db, names, owner, owner_no, space_no, vector)
    return _recall_near.NearSource(db, names, owner, owner_no, space_no, vector, row[0])


def match(db: Session, names: Names, owner: str, request: MatchQuery) -> MessagePage:
    owner_no, _, language = begin(db, names, owner)
    scope = None if owner_no is None else scope_of(db, names, owner, request.filter)
    keys: Collection[int] = ()
    if owner_no is not None and scope is not None:
        source = SqlSource(db, names, owner, owner_no)
        keys = scope.admit(sorted(_matching(source, request, language)))
    direction = "ASC" if request.order == "asc" else "DESC"
    rows = db.rows(
        f"SELECT {MESSAGE_COLUMNS} FROM {names.messages} WHERE resource_id = %s AND key = ANY(%s) "
        f"ORDER BY created_at {direction}, key {direction} LIMIT %s OFFSET %s",
        (owner, list(keys), request.per_page, request.page * request.per_page),
    )
    return MessagePage(
        messages=tuple([message_from_row(row) for row in rows]),
        total=len(keys),
        page=request.page,
        per_page=request.per_page,
        has_more=bool(rows) and request.page * request.per_page + len(rows) < len(keys),
    )


def _matching(source: SqlSource, request: MatchQuery, language: str) -> Collection[int]:
    query = parse_query(request.text, language=language)
    if not request.text.strip():
        return source.keys()
    telling = [t for t, damping in zip(query.terms, query.damping, strict=True) if damping > FUNCTION_WORD]
    postings = source.postings(telling or query.terms)
    if not postings:
        return ()
    if request.any_word:
        return set().union(*postings)
    smallest, *others = sorted(postings, key=len)
    return [key for key in smallest if all(key in other for other in others)]


def threads(
    db: Session,
    names: Names,
    owner: str,
    query: Query | str,
    limit: int,
    metadata: Mapping[str, Scalar],
) -> list[ThreadHit]:
    owner_no, speakers, language = begin(db, names, owner)
    check_count("limit", limit)
    if owner_no is None:
        return []
    source = SqlSource(db, names, owner, owner_no)
    where, params = metadata_clause(check_filter(metadata))
    sizes: dict[int, int] = dict(
        db.rows(
            f"SELECT number, message_count FROM {names.threads} WHERE resource_id = %s{where}",
            (owner, *params),
        )
    )
    parsed = in_language(query, language, lambda: speakers)
    best = rank_threads(parsed, source.postings(parsed.terms), sizes, limit)
    rows = {
        row[0]: thread_from_row(row)
        for row in db.rows(
            f"SELECT {THREAD_COLUMNS} FROM {names.threads} WHERE resource_id = %s AND number = ANY(%s)",
            (owner, [place.thread for place in best]),
        )
    }
    return [
        ThreadHit(thread=rows[place.thread], score=place.score, rank=rank, terms=place.terms)
        for rank, place in enumerate(best, 1)
    ]


def speakers(db: Session, names: Names, owner: str) -> list[str]:
    """Who wrote messages, found by jumps through an index: there are few of them and many messages."""
    label = "coalesce(nullif(speaker_name, ''), speaker_id)"
    of_owner = f"FROM {names.messages} WHERE resource_id = %s AND speaker_id IS NOT NULL"
    rows = db.rows(
        f"""WITH RECURSIVE found (label) AS (
              (SELECT {label} {of_owner} ORDER BY {label} LIMIT 1)
              UNION ALL
              SELECT (SELECT {label} {of_owner} AND {label} > found.label ORDER BY {label} LIMIT 1)
                FROM found WHERE found.label IS NOT NULL
            )
            SELECT label FROM found WHERE label IS NOT NULL
              AND EXISTS (SELECT 1 FROM {names.schema}.recall_state)""",
        (owner, owner),
    )
    return [label for (label,) in rows]


def begin(db: Session, names: Names, owner: str) -> tuple[int | None, list[str], str]:
    """The owner's number, who speaks, and the index's language.

    Raises `ConfigurationError` while recall is off.
    """
    on, number = db.together(
        [
            (f"SELECT language FROM {names.schema}.recall_state", ()),
            (f"SELECT number FROM {names.resources} WHERE id = %s", (owner,)),
        ]
    )
    if not on:
        raise ConfigurationError("recall is off in this database; switch it on with `enable_recall`")
    language = str(on[0][0])
    return (number[0][0], speakers(db, names, owner), language) if number else (None, [], language)


def scope_of(db: Session, names: Names, owner: str, wanted: RecallFilter) -> Scope | None:
    """The filter as a scope of the owner's messages; `None` when no message can pass."""
    allowed: frozenset[int] | None = None
    if wanted.thread_ids is not None or wanted.thread_metadata:
        where, params = metadata_clause(check_filter(wanted.thread_metadata))
        if wanted.thread_ids is not None:
            where += " AND id = ANY(%s)"
            params.append([check_id("thread", id_) for id_ in wanted.thread_ids])
        rows = db.rows(f"SELECT number FROM {names.threads} WHERE resource_id = %s{where}", (owner, *params))
        allowed = frozenset([number for (number,) in rows])
        if not allowed:
            return None
    excluded: set[int] = set()
    if wanted.exclude_ids:
        excluded = {
            row[0]
            for row in db.rows(
                f"SELECT key FROM {names.messages} WHERE resource_id = %s AND id = ANY(%s)",
                (owner, [check_id("message", id_) for id_ in wanted.exclude_ids]),
            )
        }
    ends: dict[int, int] = {}
    if wanted.exclude_from:
        from_seq = {
            check_id("thread", id_): check_count("exclude_from", seq)
            for id_, seq in wanted.exclude_from.items()
        }
        ends = {
            number: from_seq[id_]
            for number, id_ in db.rows(
                f"SELECT number, id FROM {names.threads} WHERE resource_id = %s AND id = ANY(%s)",
                (owner, list(from_seq)),
            )
        }
    sql, params = _conditions(wanted)
    if not (excluded or ends or sql):
        return Scope(allowed)
    return Scope(allowed, _passes(db, names, owner, excluded, ends, sql, params))


def _passes(
    db: Session,
    names: Names,
    owner: str,
    excluded: Collection[int],
    ends: Mapping[int, int],
    sql: str,
    params: Sequence[Any],
) -> Callable[[Sequence[int]], Collection[int]]:
    def passes(keys: Sequence[int]) -> Collection[int]:
        left = [
            key
            for key in keys
            if key not in excluded
            and (not ends or key & _SEQ_MASK < ends.get(key >> SEQ_BITS, _SEQ_MASK + 1))
        ]
        if not sql or not left:
            return set(left)
        rows = db.rows(
            f"SELECT key FROM {names.messages} WHERE resource_id = %s AND key = ANY(%s){sql}",
            (owner, left, *params),
        )
        return {key for (key,) in rows}

    return passes


def _conditions(wanted: RecallFilter) -> tuple[str, list[Any]]:
    sql, params = metadata_clause(check_filter(wanted.metadata))
    if wanted.since is not None:
        sql += " AND created_at >= %s"
        params.append(utc("since", wanted.since))
    if wanted.until is not None:
        sql += " AND created_at <= %s"
        params.append(utc("until", wanted.until))
    if wanted.roles:
        sql += " AND role = ANY(%s)"
        params.append(list(wanted.roles))
    if wanted.speaker_id is not None:
        sql += " AND speaker_id = %s"
        params.append(check_id("speaker", wanted.speaker_id))
    if wanted.speakers:
        sql += " AND coalesce(nullif(speaker_name, ''), speaker_id) = ANY(%s)"
        params.append(list(wanted.speakers))
    return sql, params


def _plain(terms: Sequence[str]) -> list[str]:
    return [term for term in terms if is_plain(term)]


def _unpack(blob: bytes, kind: str = "q") -> array[Any]:
    """Numbers in network order."""
    values = array(kind, blob)
    if sys.byteorder == "little":
        values.byteswap()
    return values


def floats(vector: bytes) -> Sequence[float]:
    return struct.unpack(f"<{len(vector) // 4}f", vector)

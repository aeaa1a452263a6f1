"""Answering searches: a request's filter as a scope, the ranking, and the messages it names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ..._codec import time_to_text, to_json
from ..._errors import ConfigurationError
from ..._ids import check_count, check_filter, check_id
from ..._types import MessagePage
from ...recall import gather
from ...recall.gather import Scope
from ...recall.query import FUNCTION_WORD, Query, in_language, parse_query
from ...recall.threads import rank_threads
from ..base import MatchQuery, RecallAnswer, RecallFilter, RecallHit, RecallQuery, Scalar, ThreadHit
from . import _messages, _recall_spaces
from ._driver import Connection
from ._recall_index import SqlSource, find_owner
from ._recall_vectors import CodeCache, VectorSource
from ._rows import SEQ_BITS, THREAD_COLUMNS, metadata_clauses, thread_from_row

_SEQ_MASK = (1 << SEQ_BITS) - 1


def search(db: Connection, cache: CodeCache, owner: str, request: RecallQuery) -> RecallAnswer:
    language = need_on(db)
    number, dimension = (0, 0) if request.space is None else _recall_spaces.need(db, request.space)
    if request.vector is not None and len(request.vector) != 4 * dimension:
        raise ConfigurationError(
            f"space {request.space!r} has vectors of {dimension} values; the query's has "
            f"{len(request.vector) / 4:g}"
        )
    owner_no = find_owner(db, owner)
    scope = scope_of(db, owner, request.filter)
    if owner_no is None or scope is None:
        return RecallAnswer(language=language)
    source = SqlSource(db, owner_no)
    embedded = 0
    if request.vector is not None:
        source = VectorSource(db, owner_no, number, cache=cache)
        embedded = source.embedded()
    ranked = gather.search(
        source,
        in_language(request.query, language, source.speakers),
        vector=None if request.vector is None else floats(request.vector),
        lexical=request.lexical,
        limit=request.offset + request.limit,
        settings=request.settings,
        scope=scope,
    )[request.offset :]
    if request.threshold is not None:
        ranked = [place for place in ranked if place.score >= request.threshold]
    keys = [(place.thread << SEQ_BITS) + place.seq for place in ranked]
    messages = _messages.by_keys(db, keys, request.before, request.after)
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


def match(db: Connection, owner: str, request: MatchQuery) -> MessagePage:
    language = need_on(db)
    owner_no = find_owner(db, owner)
    scope = scope_of(db, owner, request.filter)
    keys: Collection[int] = ()
    if owner_no is not None and scope is not None:
        source = SqlSource(db, owner_no)
        keys = scope.admit(sorted(_matching(source, request, language)))
    # By time, then in the order of saving within it.
    direction = "ASC" if request.order == "asc" else "DESC"
    wanted = db.execute(
        "SELECT m.key FROM json_each(?) j CROSS JOIN messages m ON m.key = j.value "
        f"ORDER BY m.created_at {direction}, m.key {direction} LIMIT ? OFFSET ?",
        (to_json(list(keys)), request.per_page, request.page * request.per_page),
    )
    found = _messages.by_keys(db, [key for (key,) in wanted])
    return MessagePage(
        messages=tuple([found[key] for (key,) in wanted]),
        total=len(keys),
        page=request.page,
        per_page=request.per_page,
        has_more=bool(wanted) and request.page * request.per_page + len(wanted) < len(keys),
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
    db: Connection, owner: str, query: Query | str, limit: int, metadata: Mapping[str, Scalar]
) -> list[ThreadHit]:
    language = need_on(db)
    check_count("limit", limit)
    owner_no = find_owner(db, owner)
    if owner_no is None:
        return []
    source = SqlSource(db, owner_no)
    where, params = metadata_clauses("metadata", check_filter(metadata))
    sizes: dict[int, int] = dict(
        db.execute(
            f"SELECT number, message_count FROM threads WHERE resource_id = ?{where}", (owner, *params)
        )
    )
    parsed = in_language(query, language, source.speakers)
    best = rank_threads(parsed, source.postings(parsed.terms), sizes, limit)
    rows = {
        row[0]: thread_from_row(row)
        for row in db.execute(
            f"SELECT {THREAD_COLUMNS} FROM threads WHERE number IN (SELECT value FROM json_each(?))",
            (to_json([place.thread for place in best]),),
        )
    }
    return [
        ThreadHit(thread=rows[place.thread], score=place.score, rank=rank, terms=place.terms)
        for rank, place in enumerate(best, 1)
    ]


def speakers(db: Connection, owner: str) -> list[str]:
    owner_no = find_owner(db, owner)
    return [] if owner_no is None else SqlSource(db, owner_no).speakers()


def scope_of(db: Connection, owner: str, wanted: RecallFilter) -> Scope | None:
    """The filter as a scope of the owner's messages; `None` when no message can pass."""
    allowed: frozenset[int] | None = None
    if wanted.thread_ids is not None or wanted.thread_metadata:
        where, params = metadata_clauses("metadata", check_filter(wanted.thread_metadata))
        if wanted.thread_ids is not None:
            where += " AND id IN (SELECT value FROM json_each(?))"
            params.append(to_json([check_id("thread", id_) for id_ in wanted.thread_ids]))
        rows = db.execute(f"SELECT number FROM threads WHERE resource_id = ?{where}", (owner, *params))
        allowed = frozenset([number for (number,) in rows])
        if not allowed:
            return None
    excluded = {
        key
        for (key,) in db.execute(
            "SELECT key FROM messages WHERE resource_id = ? AND id IN (SELECT value FROM json_each(?))",
            (owner, to_json([check_id("message", id_) for id_ in wanted.exclude_ids])),
        )
    } if wanted.exclude_ids else set[int]()  # fmt: skip
    ends: dict[int, int] = {}
    for id_, seq in wanted.exclude_from.items():
        for (number,) in db.execute(
            "SELECT number FROM threads WHERE resource_id = ? AND id = ?", (owner, check_id("thread", id_))
        ):
            ends[number] = seq
    sql, params = _conditions(wanted)
    if not (excluded or ends or sql):
        return Scope(allowed)
    return Scope(allowed, _passes(db, excluded, ends, sql, params))


def _passes(
    db: Connection, excluded: Collection[int], ends: Mapping[int, int], sql: str, params: Sequence[Any]
) -> Callable[[Sequence[int]], Collection[int]]:
    def passes(keys: Sequence[int]) -> Collection[int]:
        left = [
            key
            for key in keys
            if key not in excluded
            and (not ends or key & _SEQ_MASK < ends.get(key >> SEQ_BITS, _SEQ_MASK + 1))
        ]
        if not sql:
            return set(left)
        rows = db.execute(
            f"SELECT m.key FROM json_each(?) j CROSS JOIN messages m ON m.key = j.value WHERE true{sql}",
            (to_json(left), *params),
        )
        return {key for (key,) in rows}

    return passes


def _conditions(wanted: RecallFilter) -> tuple[str, list[Any]]:
    sql, params = metadata_clauses("m.metadata", check_filter(wanted.metadata))
    if wanted.since is not None:
        sql += " AND m.created_at >= ?"
        params.append(time_to_text(wanted.since))
    if wanted.until is not None:
        sql += " AND m.created_at <= ?"
        params.append(time_to_text(wanted.until))
    if wanted.roles:
        sql += " AND m.role IN (SELECT value FROM json_each(?))"
        params.append(to_json(list(wanted.roles)))
    if wanted.speaker_id is not None:
        sql += " AND m.speaker_id = ?"
        params.append(check_id("speaker", wanted.speaker_id))
    if wanted.speakers:
        sql += " AND coalesce(nullif(m.speaker_name, ''), m.speaker_id) IN (SELECT value FROM json_each(?))"
        params.append(to_json(list(wanted.speakers)))
    return sql, params


def floats(vector: bytes) -> Sequence[float]:
    import struct

    return struct.unpack(f"<{len(vector) // 4}f", vector)


def need_on(db: Connection) -> str:
    """The language of the index. Raises `ConfigurationError` while recall is off."""
    rows = db.execute("SELECT language FROM recall_state")
    if not rows:
        raise ConfigurationError("recall is off in this database; switch it on with `enable_recall`")
    return str(rows[0][0])

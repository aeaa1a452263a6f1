"""What the recall index holds of observations. The statements are spoken to PostgreSQL too (`_dialect`).

In the index an observation's key is negative, so that it is never a message's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from ..._codec import parts_from_json, time_from_text, to_json
from ..._types import Message, TextPart
from ...recall.rank import Record
from ._driver import Connection
from ._recall_index import Row

_IN = "IN (SELECT value FROM json_each(?))"

_DOWN = (
    "WITH RECURSIVE down(top, key) AS ("
    f"SELECT key, key FROM observations WHERE key {_IN} "
    "UNION SELECT down.top, c.child_key FROM observation_children AS c "
    "JOIN down ON c.summary_key = down.key) "
)
"""Rows with all that they stand for, and what that stands for in turn."""


def by_owner(db: Connection, keys: Sequence[int]) -> dict[str, list[int]]:
    """Observations as keys of the index, by their owners."""
    found: dict[str, list[int]] = defaultdict(list)
    for owner, key in db.execute(
        f"SELECT resource_id, key FROM observations WHERE key {_IN}", (to_json(list(keys)),)
    ):
        found[owner].append(-key)
    return found


def entries(db: Connection, keys: Sequence[int]) -> dict[str, list[Row]]:
    """What is indexed of these observations, by their owners. Those of kind "none" say nothing."""
    found: dict[str, list[Row]] = defaultdict(list)
    for owner, _, row in _entries(db, keys):
        found[owner].append(row)
    return found


def as_messages(db: Connection, keys: Sequence[int]) -> list[tuple[str, str, Message]]:
    """Owner and id of each observation, and a message with its text, for an embedder."""
    return [
        (owner, id_, Message(role="user", id=id_, parts=[TextPart(row.text)]))
        for owner, id_, row in _entries(db, keys)
    ]


def _entries(db: Connection, keys: Sequence[int]) -> list[tuple[str, str, Row]]:
    marked = to_json(list(keys))
    rows = db.execute(
        "SELECT key, number, resource_id, text, subject, speaker_id, origin, said_at FROM observations "
        f"WHERE kind <> 'none' AND key {_IN} ORDER BY key",
        (marked,),
    )
    quotes: dict[int, list[str]] = {}
    names: dict[int, str] = {}
    for owner in dict.fromkeys([row[2] for row in rows]):
        quotes |= _quotes(db, owner, marked)
        names |= _names(db, owner, marked)
    return [
        (
            owner,
            f"o{number}",
            Row(
                -key,
                "\n".join([text, *([subject] if subject else []), *quotes.get(key, ())]),
                Record(
                    "user" if origin == "user" else "assistant",
                    names.get(key, speaker),
                    None if said is None else time_from_text(said).timestamp(),
                ),
            ),
        )
        for key, number, owner, text, subject, speaker, origin, said in rows
    ]


def _names(db: Connection, owner: str, marked: str) -> dict[int, str]:
    """By what name whoever an observation is of is known in its messages."""
    return dict(
        db.execute(
            "SELECT o.key, max(coalesce(nullif(m.speaker_name, ''), m.speaker_id)) FROM observations AS o "
            "JOIN observation_sources AS s ON s.observation_key = o.key "
            "JOIN messages AS m ON m.key = s.message_key "
            f"WHERE m.speaker_id = o.speaker_id AND +m.resource_id = ? AND o.key {_IN} GROUP BY o.key",
            (owner, marked),
        )
    )


def _quotes(db: Connection, owner: str, marked: str) -> dict[int, list[str]]:
    """The words that observations quote, as they stand in the messages: also in another language."""
    found: dict[int, list[str]] = defaultdict(list)
    for key, part, start, end, parts in db.execute(
        "SELECT s.observation_key, s.part, s.char_from, s.char_to, m.parts FROM observation_sources AS s "
        "JOIN messages AS m ON m.key = s.message_key WHERE s.part IS NOT NULL "
        f"AND +m.resource_id = ? AND s.observation_key {_IN} ORDER BY s.observation_key, s.message_key",
        (owner, marked),
    ):
        whole = parts_from_json(parts)
        quoted = whole[part] if part < len(whole) else None
        if isinstance(quoted, TextPart) and (words := quoted.text[start:end]):
            found[key].append(words)
    return found


def behind(
    db: Connection, owner: str, keys: Iterable[int]
) -> dict[int, list[tuple[int, str, str | None, str | None]]]:
    """The messages behind observations, a summary's by its rows: key, id, speaker's id and name or id.

    In order of the messages.
    """
    found: dict[int, list[tuple[int, str, str | None, str | None]]] = defaultdict(list)
    for top, *message in db.execute(
        f"{_DOWN}SELECT DISTINCT down.top, m.key, m.id, m.speaker_id, "
        "coalesce(nullif(m.speaker_name, ''), m.speaker_id) FROM down "
        # `CROSS JOIN` fixes SQLite's order: it would read all sources rather than those of a few rows.
        "CROSS JOIN observation_sources AS s CROSS JOIN messages AS m "
        "WHERE s.observation_key = down.key AND m.key = s.message_key AND +m.resource_id = ? ORDER BY 1, 2",
        (to_json(list(keys)), owner),
    ):
        found[top].append((message[0], message[1], message[2], message[3]))
    return found

"""Whether a recall index is what the messages beside it call for, down to its last row."""

from __future__ import annotations

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from threadmark._codec import parts_from_json, time_from_text
from threadmark._types import Message, Speaker
from threadmark.recall.analyze import analyze
from threadmark.recall.impact import impacts
from threadmark.recall.rank import Record
from threadmark.recall.text import record, searchable
from threadmark.stores.sqlite import _observation_index, _recall_codes, _recall_index
from threadmark.stores.sqlite._driver import Connection, find_driver

NOTES = "notes of "
"""Before the owner of an observation, for it is in a collection of its own."""

Query = Callable[[str], list[tuple[Any, ...]]]


def check_file(path: str | Path, *, driver: str = "apsw", backfilled: bool = True) -> None:
    """Check the index in a file, in one state of it, while others may go on writing."""
    db = find_driver(driver)(str(path), "write")
    try:
        db.set_busy_timeout(30)
        db.execute("BEGIN")
        check_index(db.execute, backfilled=backfilled)
    finally:
        db.close()


def check_index(query: Query, *, backfilled: bool = True) -> None:
    """Fail unless every message and observation is indexed just as it is, and nothing else is there. Every
    text must have vectors.

    While recall is off nothing may be there at all. With `backfilled=False` messages may be missing. Every
    message must have vectors or wait for them in each space, unless those from before are still handed out.
    """
    owners: dict[int, str] = dict(query("SELECT owner_no, resource_id FROM recall_owners"))
    owners |= {-number: f"{NOTES}{id_}" for number, id_ in owners.items()}
    state = query("SELECT language FROM recall_state")
    if not state:
        for name in (
            "owners",
            "docs",
            "postings",
            "speakers",
            "spaces",
            "vectors",
            "codes",
            "filled",
            "outbox",
        ):
            assert not query(f"SELECT * FROM recall_{name}"), f"recall_{name} while recall is off"
        return
    messages = {
        (owner, key): Message(
            id=id_,
            role=role,
            parts=parts_from_json(parts),
            speaker=None if speaker is None else Speaker(id=speaker, name=name),
            created_at=time_from_text(at),
        )
        for owner, key, id_, role, parts, speaker, name, at in query(
            "SELECT resource_id, key, id, role, parts, speaker_id, speaker_name, created_at FROM messages"
        )
    }
    docs = {
        (owners[owner_no], key): (role, speaker, at, terms)
        for owner_no, key, role, speaker, at, terms in query("SELECT * FROM recall_docs")
    }
    texts = {place: (record(message), searchable(message)) for place, message in messages.items()}
    texts |= _notes(query)
    assert docs.keys() <= texts.keys(), "an index entry without a message or observation"
    if backfilled:
        assert docs.keys() == texts.keys(), "a message or observation without an index entry"
    postings: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    for place, doc in docs.items():
        known, text = texts[place]
        found = impacts(analyze(text, state[0][0]))
        assert doc == (known.role, known.speaker, known.at, " ".join(found)), f"the entry of {place}"
        for term, impact in found.items():
            postings[place[0], term][place[1]] = impact
    _check_counts(query, owners, docs)
    _check_postings(query, owners, postings)
    _check_vectors(query, owners, {place: text for place, (_, text) in texts.items()})


def _notes(query: Query) -> dict[tuple[str, int], tuple[Record, str]]:
    """What is to be indexed of observations, by owner and their key in the index."""

    class Reader:
        execute = staticmethod(query)

    keys = [key for (key,) in query("SELECT key FROM observations")]
    found = _observation_index.entries(cast(Connection, Reader()), keys)
    return {
        (f"{NOTES}{owner}", row.key): (row.record, row.text) for owner, rows in found.items() for row in rows
    }


def _check_counts(query: Query, owners: dict[int, str], docs: dict[tuple[str, int], Any]) -> None:
    counted = {
        owners[number]: count for number, count in query("SELECT owner_no, messages FROM recall_owners")
    } | {
        owners[-number]: count for number, count in query("SELECT owner_no, observations FROM recall_owners")
    }
    real = Counter([owner for owner, _ in docs])
    assert {owner: count for owner, count in counted.items() if count} == real, "messages of owners"
    speakers = {(owners[n], name): count for n, name, count in query("SELECT * FROM recall_speakers")}
    assert speakers == Counter(
        [(owner, doc[1]) for (owner, key), doc in docs.items() if doc[1] is not None and key > 0]
    )
    ids = {id_ for (id_,) in query("SELECT id FROM resources")}
    assert {owner for number, owner in owners.items() if number > 0} <= ids, "an owner of nothing"


def _check_postings(
    query: Query, owners: dict[int, str], expected: dict[tuple[str, str], dict[int, int]]
) -> None:
    found: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    for owner_no, term, block, keys, values in query("SELECT * FROM recall_postings"):
        unpacked = array("q", keys)
        assert len(unpacked) == len(values) > 0
        assert block or len(values) < _recall_index.BLOCK
        mine = found[owners[owner_no], term]
        assert mine.keys().isdisjoint(unpacked), f"a message is twice in {term!r}"
        mine.update(zip(unpacked, values, strict=True))
    assert found == expected, "postings"


def _check_vectors(query: Query, owners: dict[int, str], texts: dict[tuple[str, int], str]) -> None:
    spaces = {
        row[0]: row
        for row in query("SELECT space_no, name, dimension, queued_to, queue_end FROM recall_spaces")
    }
    vectors = [
        (owners[owner_no], space_no, key, part)
        for owner_no, space_no, key, part in query("SELECT owner_no, space_no, key, part FROM recall_vectors")
    ]
    assert {(owner, key) for owner, _, key, _ in vectors} <= texts.keys(), "vectors without a message"
    coded: Counter[tuple[str, int, int]] = Counter()
    for owner_no, space_no, block, keys, codes in query("SELECT * FROM recall_codes"):
        unpacked = array("q", keys)
        assert len(codes) % len(unpacked) == 0
        assert block or len(unpacked) < _recall_codes.BLOCK
        coded.update([(owners[owner_no], space_no, key) for key in unpacked])
    assert coded == Counter([(owner, space, key) for owner, space, key, _ in vectors]), "codes"
    filled = {(owners[o], s): n for o, s, n, _ in query("SELECT * FROM recall_filled")}
    assert filled == Counter([(owner, space) for owner, space, _ in coded]), "counts of vectors"
    waiting = set(query("SELECT space_no, key FROM recall_outbox"))
    keys = {key for _, key in texts}
    assert {key for _, key in waiting} <= keys, "somebody waits for vectors of no message"
    have = {(space, key) for _, space, key in coded}
    assert not have & waiting, "a message has vectors and waits for them"
    for space, (_, _, _, queued_to, queue_end) in spaces.items():
        later = {key for key in keys if queued_to < key <= queue_end}
        worded = {key for (_, key), text in texts.items() if text}
        missing = worded - later - {k for s, k in have | waiting if s == space}
        assert not missing, f"messages without vectors that do not wait: {json.dumps(sorted(missing))}"

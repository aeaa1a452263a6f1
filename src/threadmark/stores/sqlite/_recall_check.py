"""Whether the parts of the recall index that only SQLite's has agree with one another, and mending them.

What is told twice is made anew from where it is told first: postings, counts and speakers from `recall_docs`,
codes from `recall_vectors`.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from ..base._checks import Check
from . import _recall_codes, _recall_index
from ._driver import Connection
from ._recall_index import unpack

_LEFT_OWNERS = (
    "FROM recall_owners WHERE NOT EXISTS (SELECT 1 FROM messages AS m WHERE m.resource_id = "
    "recall_owners.resource_id) AND NOT EXISTS (SELECT 1 FROM observations AS o WHERE o.resource_id = "
    "recall_owners.resource_id) "
    + " ".join(
        [
            f"AND NOT EXISTS (SELECT 1 FROM {table} AS d "
            "WHERE d.owner_no IN (recall_owners.owner_no, -recall_owners.owner_no))"
            for table in ("recall_docs", "recall_postings", "recall_vectors", "recall_codes")
        ]
    )
)
_COUNTS = {
    "messages": "(SELECT count(*) FROM recall_docs AS d WHERE d.owner_no = recall_owners.owner_no)",
    "observations": "(SELECT count(*) FROM recall_docs AS d WHERE d.owner_no = -recall_owners.owner_no)",
}
_WRONG_OWNERS = " OR ".join([f"{column} <> {right}" for column, right in _COUNTS.items()])
_SPEAKERS = (
    "SELECT owner_no, speaker, count(*) FROM recall_docs WHERE owner_no > 0 AND speaker IS NOT NULL "
    "GROUP BY owner_no, speaker"
)
_TOLD = "SELECT owner_no, speaker, messages FROM recall_speakers"
_PLACE = "owner_no = ? AND space_no = ?"
_SPACELESS = "space_no NOT IN (SELECT space_no FROM recall_spaces)"


def checks() -> Sequence[Check]:
    return (
        Check(
            "messages or observations whose words in the recall index do not agree",
            lambda db: sum([count for _, count in _disagreeing(db)]),
            _forget_words,
        ),
        Check("counts in the recall index that are wrong", _wrong_counts, _count_again),
        Check(
            "vectors of an embedder that is gone",
            lambda db: int(db.execute(f"SELECT count(*) FROM recall_vectors WHERE {_SPACELESS}")[0][0]),
            _drop_spaceless,
        ),
        Check(
            "owners whose vectors and their codes do not agree",
            lambda db: len(_uncoded(db)),
            _code_again,
        ),
        Check(
            "owners that the recall index names, of whom nothing is there",
            lambda db: int(db.execute(f"SELECT count(*) {_LEFT_OWNERS}")[0][0]),
            lambda db: db.execute(f"DELETE {_LEFT_OWNERS}"),
        ),
    )


# -- words -------------------------------------------------------------------------------------------


def _disagreeing(db: Connection) -> Iterator[tuple[int, int]]:
    """Owners in the index of whom some keys have other terms in postings than in docs; how many keys."""
    numbers = db.execute("SELECT owner_no FROM recall_docs UNION SELECT owner_no FROM recall_postings")
    for (owner_no,) in numbers:
        by_term: dict[str, array[int]] = defaultdict(lambda: array("q"))
        for key, terms in db.execute(
            "SELECT key, terms FROM recall_docs WHERE owner_no = ? ORDER BY key", (owner_no,)
        ):
            for term in terms.split(" ") if terms else ():
                by_term[term].append(key)
        wrong: set[int] = set()
        last, keys = "", array("q")
        for term, packed, values in (
            *db.execute(
                "SELECT term, keys, length(impacts) FROM recall_postings WHERE owner_no = ? ORDER BY term",
                (owner_no,),
            ),
            ("", b"", 0),
        ):
            if term != last:
                _compare(keys, by_term.pop(last, array("q")), wrong)
                last, keys = term, array("q")
            block = unpack(packed)
            keys.extend(block)
            if values != len(block):
                wrong.update(block)
        for lacking in by_term.values():
            wrong.update(lacking)
        if wrong:
            yield owner_no, len(wrong)


def _compare(posted: array[int], told: array[int], wrong: set[int]) -> None:
    if posted != told:
        left, right = Counter(posted), Counter(told)
        wrong.update(left - right)
        wrong.update(right - left)


def _forget_words(db: Connection) -> None:
    """Take all of such an owner's words out: they are found lacking, and indexed again."""
    for owner_no, _ in list(_disagreeing(db)):
        for table in ("recall_postings", "recall_docs"):
            db.execute(f"DELETE FROM {table} WHERE owner_no = ?", (owner_no,))
    _count_again(db)


def _wrong_counts(db: Connection) -> int:
    owners = int(db.execute(f"SELECT count(*) FROM recall_owners WHERE {_WRONG_OWNERS}")[0][0])
    right, told = set(db.execute(_SPEAKERS)), set(db.execute(_TOLD))
    return owners + len({row[:2] for row in right ^ told})


def _count_again(db: Connection) -> None:
    for column, right in _COUNTS.items():
        db.execute(f"UPDATE recall_owners SET {column} = {right} WHERE {column} <> {right}")
    db.execute("DELETE FROM recall_speakers")
    db.execute(f"INSERT INTO recall_speakers {_SPEAKERS}")


# -- vectors -----------------------------------------------------------------------------------------


def _uncoded(db: Connection) -> list[tuple[int, int]]:
    """Owners and spaces of which the codes, or how many they are, are not those of the vectors."""
    found = []
    for place in db.execute(
        "SELECT owner_no, space_no FROM recall_vectors UNION SELECT owner_no, space_no FROM recall_codes "
        "UNION SELECT owner_no, space_no FROM recall_filled ORDER BY 1, 2"
    ):
        whole: Counter[int] = Counter()
        coded: Counter[int] = Counter()
        for (key,) in db.execute(f"SELECT key FROM recall_vectors WHERE {_PLACE}", place):
            whole[key] += 1
        for packed, codes in db.execute(
            f"SELECT keys, length(codes) FROM recall_codes WHERE {_PLACE}", place
        ):
            keys = unpack(packed)
            if not keys or codes % len(keys):
                coded[-1 << 63] += 1
            coded.update(keys)
        filled = db.execute(f"SELECT messages FROM recall_filled WHERE {_PLACE}", place)
        if whole != coded or filled != [(len(whole),)]:
            found.append((place[0], place[1]))
    return found


def _code_again(db: Connection) -> None:
    for owner_no, space_no in _uncoded(db):
        code_again(db, owner_no, space_no)


def code_again(db: Connection, owner_no: int, space_no: int) -> None:
    """Make the codes of an owner's vectors in a space anew."""
    from ...recall.codes import codes, import_numpy

    np = import_numpy()
    place = (owner_no, space_no)
    for table in ("recall_codes", "recall_filled"):
        db.execute(f"DELETE FROM {table} WHERE {_PLACE}", place)
    # Whoever has read the old ones must not take the new ones for them.
    db.execute("UPDATE recall_spaces SET stamps = stamps + 1 WHERE space_no = ?", (space_no,))
    after = (-(1 << 63), -1)
    while rows := db.execute(
        f"SELECT key, part, vector FROM recall_vectors WHERE {_PLACE} "
        "AND (key, part) > (?, ?) ORDER BY key, part LIMIT ?",
        (*place, *after, _recall_codes.BLOCK * 16),
    ):
        values = np.frombuffer(b"".join([vector for _, _, vector in rows]), "<f4").reshape(len(rows), -1)
        made = zip(rows, codes(values), strict=True)
        _recall_codes.append(db, owner_no, space_no, [(row[0], code.tobytes()) for row, code in made])
        after = rows[-1][:2]
    db.execute(
        "UPDATE recall_filled SET messages = (SELECT count(DISTINCT key) FROM recall_vectors "
        "WHERE owner_no = ?1 AND space_no = ?2) WHERE owner_no = ?1 AND space_no = ?2",
        place,
    )


def _drop_spaceless(db: Connection) -> None:
    for table in ("recall_codes", "recall_filled", "recall_vectors"):
        db.execute(f"DELETE FROM {table} WHERE {_SPACELESS}")


def unindex(db: Connection, keys: Mapping[int, Sequence[int]]) -> None:
    """Take the words of keys out of the index, by the owner's number."""
    from ._recall_keep import forget_idle

    for owner_no, own in keys.items():
        _recall_index.remove_messages(db, owner_no, own)
        forget_idle(db, abs(owner_no))


def unembed(db: Connection, keys: Mapping[int, Sequence[int]]) -> None:
    """Remove vectors of keys, by the owner's number, with their codes."""
    from ._recall_keep import forget_idle
    from ._recall_vectors import remove_vectors

    for owner_no, own in keys.items():
        remove_vectors(db, owner_no, own)
        forget_idle(db, abs(owner_no))

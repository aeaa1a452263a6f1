"""The closest vectors of an owner who has very many, by an index of that owner's vectors alone.

An index over everybody's vectors has to be filtered by owner after it was searched, and then loses hits of
those who have few. So each index holds the vectors of one owner in one space and no others, and only owners
with many have one: all vectors of the others are measured. What the index names is measured anew, and what
it cannot answer, because a filter leaves out most of what it names, is answered by measuring all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...recall.gather import EVERYTHING, Scope
from ...recall.rank import Background
from ._names import Names
from ._recall_search import VectorSource
from ._session import Session, Statement

SEARCHED = 200
"""`hnsw.ef_search`: how many candidates an index gives. With `BUILD` it found 1.00 of the best 4 and 40 among
100,000 vectors in clusters, in 2 ms."""
BUILD = "m = 24, ef_construction = 200"
SAMPLE = 1000
"""How many messages tell how cosines are spread; they know the mean to a thirtieth of the spread."""
MOST_INDEXED = 4000
"""Most values of a vector that an index takes."""


def index_name(space_no: int, owner_no: int) -> str:
    return f"near_{space_no}_{owner_no}"


def indexed(where: str, dimension: int) -> str:
    """The expression that an index is on; vectors of more than 2,000 values are held at half precision."""
    kind = "vector" if dimension <= 2000 else "halfvec"
    return f"(vector::{where}.{kind}({dimension}))"


def sample(names: Names, owner_no: int, space_no: int) -> Statement:
    """The sample of an owner whose index may be used; no row where there is none, or it is not finished."""
    return (
        f"SELECT n.sample FROM {names.schema}.recall_near AS n "
        "JOIN pg_index AS i ON i.indexrelid = to_regclass(%s) AND i.indisvalid "
        "WHERE n.owner_no = %s AND n.space_no = %s",
        (f"{names.schema}.{index_name(space_no, owner_no)}", owner_no, space_no),
    )


class NearSource(VectorSource):
    """The same as `VectorSource`, without measuring all vectors unless that cannot be helped."""

    def __init__(
        self,
        db: Session,
        names: Names,
        owner: str,
        owner_no: int,
        space_no: int,
        vector: Sequence[float],
        sampled: Sequence[int],
    ) -> None:
        super().__init__(db, names, owner, owner_no, space_no, vector)
        self._sampled = list(sampled)
        self._dimension = len(vector)
        self._exact = False

    def measure(self) -> None:
        """Only count them."""
        counted = self._db.rows(
            f"SELECT count(*) FROM {self._vectors} AND v.part = 0", (self._number, self._space)
        )
        self.embedded = int(counted[0][0])

    def nearest(
        self, vector: Sequence[float], k: int, scope: Scope = EVERYTHING
    ) -> tuple[list[int], Background]:
        known = list(self._measured(self._sampled).values())
        best = scope.admit(self._candidates(max(SEARCHED, min(4 * k, 1000))))
        # A sample that has mostly gone tells nothing, and candidates that a filter leaves out hide others.
        if len(known) < SAMPLE / 4 or len(best) < k:
            self._exact = True
            super().measure()
            return super().nearest(vector, k, scope)
        mean = sum(known) / len(known)
        spread = (sum([(value - mean) ** 2 for value in known]) / len(known)) ** 0.5
        return best[:k], Background(mean, spread)

    def cosines(self, vector: Sequence[float], keys: Iterable[int]) -> dict[int, float]:
        return super().cosines(vector, keys) if self._exact else self._measured(list(keys))

    def _candidates(self, count: int) -> list[int]:
        """The keys of the closest vectors by the index, the closest first."""
        column = indexed(self._where, self._dimension)
        kind = "vector" if self._dimension <= 2000 else "halfvec"
        # Written out, for a plan for any owner could not use the index of one.
        statement: Statement = (
            f"SELECT key FROM {self._names.schema}.recall_vectors "
            f"WHERE owner_no = {self._number} AND space_no = {self._space} "
            f"ORDER BY {column} OPERATOR({self._where}.<#>) %s::{self._where}.{kind} "
            f"LIMIT {count}",
            (self._text,),
        )
        setting: Statement = ("SELECT set_config('hnsw.ef_search', %s, true)", (f"{count}",))
        before = self._db.rows("SELECT current_setting('hnsw.ef_search', true)")[0][0]
        _, found, _ = self._db.together(
            [setting, statement, ("SELECT set_config('hnsw.ef_search', %s, true)", (before or "40",))]
        )
        return list(dict.fromkeys([key for (key,) in found]))

    def _measured(self, keys: Sequence[int]) -> dict[int, float]:
        """The best cosine of each of these messages' pieces."""
        return dict(
            self._db.rows(
                f"SELECT v.key, {self._cosine} FROM {self._vectors} AND v.key = ANY(%s) GROUP BY v.key",
                (self._text, self._number, self._space, list(keys)),
            )
        )

"""The ranking with numpy and without, over vectors as SQLite keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from threadmark.recall import gather
from threadmark.recall.query import Query, parse_query
from threadmark.recall.rank import Record
from threadmark.stores.sqlite import _recall_index as index
from threadmark.stores.sqlite import _recall_spaces as spaces
from threadmark.stores.sqlite import _recall_vectors as vectors
from threadmark.stores.sqlite._driver import Connection, connect_apsw
from threadmark.stores.sqlite._migrations import migrate

numpy = pytest.importorskip("numpy")


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    db = connect_apsw(str(tmp_path / "m.db"), "create")
    migrate(db, str(tmp_path / "m.db"))
    yield db
    db.close()


def test_cosines_are_measured_in_the_same_order(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are equal to the last bit: a product rounds by where in its matrix a vector stands."""
    noise = numpy.random.default_rng(3)
    values = noise.standard_normal((1207, 256)).astype("<f4")
    values /= numpy.linalg.norm(values, axis=1, keepdims=True)
    owner = index.make_owner(connection, "ann")
    spaces.add(connection, "bench", 256, 0.0)
    space, _ = spaces.need(connection, "bench")
    keys = [((n % 5 + 1) << 32) + n // 5 + 1 for n in range(1207)]
    rows = [index.Row(key, f"word{key % 7} word{key % 31}", Record("user")) for key in keys]
    index.add_messages(connection, owner, rows)
    some = {key: [row.tobytes()] for key, row in zip(keys, values, strict=True)}
    vectors.add_vectors(connection, owner, space, some)
    for number in range(60):
        asked = noise.standard_normal(256).astype("<f4")
        asked /= numpy.linalg.norm(asked)
        query, vector = parse_query(f"word{number % 7} word{number % 31}"), asked.tolist()

        def ranked(query: Query = query, vector: list[float] = vector) -> list[str]:
            source = vectors.VectorSource(connection, owner, space)
            return [repr(place) for place in gather.search(source, query, vector=vector, limit=30)]

        fast = ranked()
        with monkeypatch.context() as patch:
            patch.setattr(gather, "_numpy", lambda: None)
            assert fast == ranked()

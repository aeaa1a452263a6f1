"""What an embedder is, and a guard around any of them."""

from __future__ import annotations

import asyncio
import math
import struct
from array import array
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from .._errors import ConfigurationError, ModelError

MAX_DIMENSION = 16384


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into vectors whose cosine says how close in meaning the texts are.

    Vectors of two embedders are comparable only if they have the same `name`. So `name` identifies the
    model with everything that changes its output: version, prefixes, truncation. An embedder may be used
    from several tasks and event loops at once.
    """

    @property
    def name(self) -> str:
        """Identity of the vector space, e.g. "openai:text-embedding-3-small@512"."""

    @property
    def dimension(self) -> int | None:
        """Length of each vector; `None` as long as the first vector has to tell."""

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> Sequence[Any]:
        """One vector for each text, in order: an array, a sequence of numbers, or float32 bytes.

        `query` tells that the texts are queries, for models that embed those differently. Vectors need
        no particular length. A zero vector means that there is nothing to embed in the text.
        """


class CheckedEmbedder:
    """Wraps an embedder so that what comes out is sound, or a clear error.

    Raises `ConfigurationError` for an embedder whose name or dimension cannot be, and when a vector's length
    is not the dimension; `ModelError` when the embedder fails, takes longer than `timeout`, returns another
    number of vectors than texts, or values that are no finite numbers. Cancellation passes through. Where
    the embedder does not know its dimension, that of the first sound vector is it.
    """

    def __init__(self, embedder: Embedder) -> None:
        name, dimension = getattr(embedder, "name", None), getattr(embedder, "dimension", None)
        if not isinstance(name, str) or not name:
            raise ConfigurationError(
                f"embedder {type(embedder).__name__} needs a non-empty `name`, not {name!r}"
            )
        if dimension is not None and (
            isinstance(dimension, bool)
            or not isinstance(dimension, int)
            or not 0 < dimension <= MAX_DIMENSION
        ):
            raise ConfigurationError(
                f"embedder {name!r} needs a `dimension` from 1 to {MAX_DIMENSION}, not {dimension!r}"
            )
        self._embedder = embedder
        self.name = name
        self.dimension: int | None = dimension

    async def measure(self, *, timeout: float | None = None) -> int:
        """The dimension; where it is not known, one short text is embedded to learn it."""
        if self.dimension is None:
            await self.embed(["dimension"], timeout=timeout)
        if self.dimension is None:
            raise ModelError(f"embedder {self.name!r} returned nothing for a word")
        return self.dimension

    async def embed(
        self, texts: Sequence[str], *, query: bool = False, timeout: float | None = None
    ) -> list[bytes | None]:
        """For each text a vector of length 1 as little-endian float32 bytes; `None` for a zero vector.

        `timeout` is in seconds. It cannot stop an embedder that blocks the event loop.
        """
        if not texts:
            return []
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                vectors = await self._embedder.embed(list(texts), query=query)
            count = len(vectors)
        except ConfigurationError:
            raise
        except Exception as error:
            if limit.expired():
                raise ModelError(f"embedder {self.name!r} took longer than {timeout:g} s") from None
            raise ModelError(
                f"embedder {self.name!r} failed: {type(error).__name__}: {error}"[:500]
            ) from error
        if count != len(texts):
            raise ModelError(f"embedder {self.name!r} returned {count} vectors for {len(texts)} texts")
        return [self._unit(vector) for vector in vectors]

    def _unit(self, vector: Any) -> bytes | None:
        values = self._values(vector)
        dimension = self.dimension or len(values)
        if len(values) != dimension or not 0 < dimension <= MAX_DIMENSION:
            raise ConfigurationError(
                f"embedder {self.name!r} returned a vector of {len(values)} values; its `dimension` says "
                f"{self.dimension or f'nothing, and {MAX_DIMENSION} are the most'}"
            )
        # Scaled first, so that squares of very large or very small values stay in range.
        largest = max(map(abs, values))
        if not math.isfinite(largest) or any(v != v for v in values):
            raise ModelError(f"embedder {self.name!r} returned a vector with values that are not finite")
        self.dimension = dimension
        if largest == 0:
            return None
        scaled = [v / largest for v in values]
        length = math.sqrt(math.fsum([v * v for v in scaled]))
        return struct.pack(f"<{dimension}f", *[v / length for v in scaled])

    def _values(self, vector: Any) -> Sequence[float]:
        try:
            if isinstance(vector, (bytes, bytearray, memoryview)):
                raw = bytes(vector)
                if len(raw) % 4:
                    raise ValueError("the bytes are no float32 values")
                return struct.unpack(f"<{len(raw) // 4}f", raw)
            if isinstance(vector, array):
                return vector.tolist()
            listed = vector.tolist() if hasattr(vector, "tolist") else vector
            return [float(v) for v in listed]
        except (TypeError, ValueError, OverflowError) as error:
            raise ModelError(
                f"embedder {self.name!r} returned something that is no vector: {error}"
            ) from error


def pieces(text: str, *, size: int = 1000, overlap: int = 100) -> list[str]:
    """Cut a long text for embedding: pieces of `size` characters at most that overlap by about `overlap`.

    Cuts fall on the end of a line, a sentence or a word where there is one. Blank text gives `[]`.
    """
    if not 0 <= overlap < size:
        raise ValueError(f"overlap must be from 0 to below size, not {overlap} of {size}")
    found = []
    start = 0
    while start < len(text):
        end = min(len(text), start + size)
        if end < len(text):
            least = start + (size + overlap) // 2
            ends = (text.rfind(mark, least, end) + len(mark) for mark in ("\n", ". ", " "))
            end = next((e for e in ends if e > least), end)
        piece = text[start:end].strip()
        if piece:
            found.append(piece)
        if end == len(text):
            break
        start = end - overlap
    return found


def unpack(vector: bytes) -> list[float]:
    """The values of a vector as `CheckedEmbedder` makes it."""
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))

"""Vectors as short codes, to find the closest of very many without reading them whole. Needs numpy.

A code is 512 or 1,024 bits: on which side of as many fixed planes a vector lies. The more bits of two
codes differ, the further apart are the vectors.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

from .._errors import ConfigurationError


def import_numpy() -> Any:
    """numpy, or a `ConfigurationError` that says how to install it."""
    try:
        import numpy
    except ImportError:
        raise ConfigurationError("semantic recall needs numpy: pip install 'threadmark[semantic]'") from None
    return numpy


def code_bytes(dimension: int) -> int:
    """The length of a code."""
    return 64 if dimension <= 256 else 128


def codes(values: Any) -> Any:
    """A code for each row of the float32 matrix `values`: an array of bytes, shape (rows, `code_bytes`)."""
    np = import_numpy()
    return np.packbits(values @ _planes(values.shape[1]) > 0, axis=1)


def columns(rows: Any) -> Any:
    """Codes turned on their side, 64-bit words by rows: the form in which many are compared fastest."""
    np = import_numpy()
    return np.ascontiguousarray(rows.view("<u8").T)


def distances(turned: Any, code: Any) -> Any:
    """In how many bits each code of `columns(rows)` differs from `code`, as 16-bit numbers."""
    np = import_numpy()
    total = np.zeros(turned.shape[1], np.uint16)
    for column, word in zip(turned, code.view("<u8"), strict=True):
        total += _bit_count(np, column ^ word)
    return total


def smallest(values: Any, count: int) -> Any:
    """Where the `count` smallest of many 16-bit numbers are, in order of place; of equal ones the first."""
    np = import_numpy()
    least = int(np.searchsorted(np.cumsum(np.bincount(values)), count))
    below = np.flatnonzero(values < least)
    return np.sort(np.concatenate([below, np.flatnonzero(values == least)[: count - len(below)]]))


@lru_cache(maxsize=4)
def _planes(dimension: int) -> Any:
    """Columns of a Hadamard matrix with the signs of its rows shuffled: exact on every machine, being ±1.

    Vectors with a few large values would waste the signs of their small ones; these planes mix all values.
    """
    np = import_numpy()
    bits = 8 * code_bytes(dimension)
    digest = hashlib.shake_256(b"recall_codes").digest(dimension // 8 + 1)
    signs = np.unpackbits(np.frombuffer(digest, np.uint8))[:dimension].astype(np.float32) * 2 - 1
    # Rows from all over the matrix, or columns would be alike; beyond its size they repeat with other signs.
    both = (np.arange(dimension) * 363 + 91)[:, None] % bits & np.arange(bits)[None, :]
    for shift in (8, 4, 2, 1):
        both ^= both >> shift
    return (1 - 2 * (both & 1)).astype(np.float32) * signs[:, None]


def _bit_count(np: Any, words: Any) -> Any:
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(words)
    return np.unpackbits(words.view(np.uint8)).reshape(len(words), 64).sum(axis=1, dtype=np.uint8)

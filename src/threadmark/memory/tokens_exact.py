"""Finds an installed tokenizer that counts exactly and offline. None is imported until it is asked for."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

Count: TypeAlias = Callable[[str], int | None]
"""Tokens of a text, or `None` when this tokenizer cannot tell."""

_ENCODINGS = {"o200k": "o200k_base", "cl100k": "cl100k_base"}
_LONGEST = 500_000  # characters; beyond, an exact count costs too much, or is refused
# `tiktoken` downloads what its cache lacks, or holds with another digest: so both are checked first.
_ADDRESS = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
_DIGESTS = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}


def exact_counter(family: str) -> tuple[str, Count] | None:
    """The first tokenizer of `quicktok-v1`, `bpe-openai` and `tiktoken` that works here, by package name."""
    encoding = _ENCODINGS.get(family)
    if encoding is None:
        return None
    for package, load in (("quicktok-v1", _quicktok), ("bpe-openai", _bpe_openai), ("tiktoken", _tiktoken)):
        try:
            count = load(encoding)
            if count is not None and count("a") == 1:
                return package, count
        except Exception:  # an optional package that is missing, broken or of another version is not there
            continue
    return None


def _quicktok(name: str) -> Count | None:
    counted: Callable[[str], int] = import_module("quicktok").get_encoding(name).count
    return _guarded(counted)


def _bpe_openai(name: str) -> Count | None:
    encode: Callable[[str], list[int]] = import_module("bpe_openai").get_encoding(name).encode_ordinary
    return _guarded(lambda text: len(encode(text)))


def _tiktoken(name: str) -> Count | None:
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    if "" in (os.environ.get("TIKTOKEN_CACHE_DIR"), os.environ.get("DATA_GYM_CACHE_DIR")):
        return None  # an empty value turns the cache off
    key = hashlib.sha1(_ADDRESS.format(name).encode(), usedforsecurity=False).hexdigest()
    path = Path(folder or Path(tempfile.gettempdir()) / "data-gym-cache") / key
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != _DIGESTS[name]:
        return None
    encoding: Any = import_module("tiktoken").get_encoding(name)
    return _guarded(lambda text: len(encoding.encode_ordinary(text)))


def _guarded(counted: Callable[[str], int]) -> Count:
    def count(text: str) -> int | None:
        if not text:
            return 0
        if len(text) > _LONGEST:
            return None
        # a lone surrogate cannot be sent as it is: providers get a replacement in its place
        return counted(text if text.isascii() else text.encode("utf-8", "replace").decode())

    return count

"""From what an option says to an embedder, and from texts to vectors, each text once."""

from __future__ import annotations

import hashlib
import sys
from collections import OrderedDict
from collections.abc import Sequence
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Any

from ..._errors import ConfigurationError

if TYPE_CHECKING:
    from ...vectors import CheckedEmbedder

REMEMBERED = 1000
"""How many vectors of recent texts a process keeps."""


def resolve(embedder: Any, mode: str) -> CheckedEmbedder | None:
    """The embedder that `embedder` means; `None` where words alone are to be searched.

    Raises `ConfigurationError` for what is no embedder, and when `mode` or `embedder` asks for vectors
    that cannot be had here.
    """
    if mode == "lexical":
        return None
    if find_spec("numpy") is None:
        if mode == "auto" and embedder is None:
            return None
        raise ConfigurationError("semantic recall needs numpy: pip install 'threadmark[semantic]'")
    from ...vectors import CheckedEmbedder

    if isinstance(embedder, CheckedEmbedder):
        return embedder
    return CheckedEmbedder(_made(embedder))


def _made(embedder: Any) -> Any:
    from ...vectors import MiniLMEmbedder, ProviderEmbedder, StaticEmbedder

    if embedder is None or embedder == "static":
        return _static() if embedder is None else StaticEmbedder()
    if isinstance(embedder, str):
        return MiniLMEmbedder() if embedder == "minilm" else ProviderEmbedder(embedder)
    # Whoever holds an object of Pydantic AI has imported it.
    provider = sys.modules.get("pydantic_ai.embeddings")
    if provider is not None and isinstance(embedder, (provider.Embedder, provider.EmbeddingModel)):
        return ProviderEmbedder(embedder)
    if not callable(getattr(embedder, "embed", None)):
        raise ConfigurationError(
            "embedder must be an Embedder, an embedder of Pydantic AI, 'provider:model', 'static' or "
            f"'minilm', not {type(embedder).__name__}"
        )
    return embedder


_default: list[Any] = []


def _static() -> Any:
    """The default embedder: one for the process, so that its table is loaded once."""
    from ...vectors import StaticEmbedder

    if not _default:
        _default.append(StaticEmbedder())
    return _default[0]


class _Remembered:
    """Vectors of recent texts, by embedder, kind and text."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._vectors: OrderedDict[tuple[str, bool, bytes], bytes | None] = OrderedDict()

    def get(self, keys: Sequence[tuple[str, bool, bytes]]) -> dict[tuple[str, bool, bytes], bytes | None]:
        with self._lock:
            found = {key: self._vectors[key] for key in keys if key in self._vectors}
            for key in found:
                self._vectors.move_to_end(key)
            return found

    def put(self, vectors: dict[tuple[str, bool, bytes], bytes | None]) -> None:
        with self._lock:
            self._vectors.update(vectors)
            while len(self._vectors) > REMEMBERED:
                self._vectors.popitem(last=False)


_remembered = _Remembered()


async def embed(
    embedder: CheckedEmbedder, texts: Sequence[str], *, query: bool = False, timeout: float | None = None
) -> list[bytes | None]:
    """As `CheckedEmbedder.embed`; a text that the process embedded lately is not embedded again.

    Only digests of texts are kept.
    """
    keys = [
        (embedder.name, query, hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest())
        for text in texts
    ]
    known = _remembered.get(keys)
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if missing:
        vectors = await embedder.embed(list(missing.values()), query=query, timeout=timeout)
        made = dict(zip(missing, vectors, strict=True))
        _remembered.put(made)
        known |= made
    return [known[key] for key in keys]

"""Embedding models of providers, through Pydantic AI."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

from .._errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic_ai.embeddings import Embedder as PydanticEmbedder
    from pydantic_ai.embeddings import EmbeddingModel

BATCH = 96
"""Texts of one request; providers take some hundreds at most."""

_VARIABLE = re.compile(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b")
_INSTALL = re.compile(r"pip install [\"']?([\w\[\],-]+)")


class ProviderEmbedder:
    """An embedding model by its name, `"openai:text-embedding-3-small"`, or an embedder of Pydantic AI.

    The name's provider and model are split at the first ":" or "/". `dimensions` asks the model for
    shorter vectors, `settings` are passed on as they are. Nothing is loaded or asked before the first text.
    `dimension` is that of the first vector when it was not given.
    """

    def __init__(
        self,
        model: str | EmbeddingModel | PydanticEmbedder,
        *,
        dimensions: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(model, str):
            separator = re.search("[:/]", model)
            if separator is None or not all((model[: separator.start()], model[separator.end() :])):
                raise ConfigurationError(
                    f"embedder {model!r} is no name of one; give 'provider:model' (for example "
                    "'openai:text-embedding-3-small'), 'static' or 'minilm'"
                )
            model = f"{model[: separator.start()]}:{model[separator.end() :]}"
            named = model
        else:
            inner: Any = getattr(model, "model", model)  # an `Embedder` holds a model, or its name
            named = inner if isinstance(inner, str) else f"{inner.system}:{inner.model_name}"
        self.name = named if dimensions is None else f"{named}@{dimensions}"
        self.dimension: int | None = dimensions
        self._settings: dict[str, Any] = dict(settings or {})
        if dimensions is not None:
            self._settings["dimensions"] = dimensions
        self._model = model
        self._lock = Lock()
        self._made: PydanticEmbedder | None = None

    def __repr__(self) -> str:
        return f"ProviderEmbedder({self.name!r})"

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> list[Sequence[float]]:
        """One vector for each text. Raises `ConfigurationError` for what is not installed or not set."""
        embedder = self._embedder()
        found: list[Sequence[float]] = []
        for first in range(0, len(texts), BATCH):
            result = await embedder.embed(
                list(texts[first : first + BATCH]),
                input_type="query" if query else "document",
                settings=self._settings or None,  # type: ignore[arg-type]
            )
            found += result.embeddings
        return found

    def _embedder(self) -> PydanticEmbedder:
        with self._lock:
            if self._made is None:
                try:
                    from pydantic_ai.embeddings import Embedder, infer_embedding_model

                    model: Any = self._model
                    if isinstance(model, str):
                        model = infer_embedding_model(model)
                    self._made = model if isinstance(model, Embedder) else Embedder(model)
                except ImportError as error:
                    raise ConfigurationError(self._missing(error)) from error
                except Exception as error:  # each provider's client has its own for a missing key
                    raise ConfigurationError(self._misconfigured(error)) from error
            return self._made

    def _missing(self, error: ImportError) -> str:
        named = _INSTALL.search(str(error))
        package = "threadmark[models]" if named is None else named[1]
        return f"embedder {self.name!r} needs packages that are not installed; run: pip install '{package}'"

    def _misconfigured(self, error: Exception) -> str:
        text = str(error)
        variables = list(dict.fromkeys(_VARIABLE.findall(text)))
        if variables and re.search("key|token|credential|environment variable", text, re.IGNORECASE):
            needed = " or ".join(variables)
            return f"embedder {self.name!r} is not configured: set the environment variable {needed}"
        return f"embedder {self.name!r} cannot be made: {text[:300] or type(error).__name__}"

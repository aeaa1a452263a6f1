"""Embedders: what turns texts into vectors for semantic recall. Nothing heavy is imported before use."""

from .base import CheckedEmbedder, Embedder, pieces, unpack
from .minilm import MiniLMEmbedder
from .provider import ProviderEmbedder
from .static import StaticEmbedder

__all__ = [
    "CheckedEmbedder",
    "Embedder",
    "MiniLMEmbedder",
    "ProviderEmbedder",
    "StaticEmbedder",
    "pieces",
    "unpack",
]

"""Which family of tokenizers counts for a model, by its name."""

from __future__ import annotations

import re

_FAMILIES: tuple[tuple[str, str], ...] = ((r"gpt-3\.?5|gpt-35|gpt-4(?!o|\.|-?o)|text-embedding-", "cl100k"),)
_PATTERNS = tuple((re.compile(pattern), family) for pattern, family in _FAMILIES)


def family_of(model: str) -> str:
    """The family for `provider:model`; that of current OpenAI models where nothing better is known."""
    name = model.lower()
    return next((family for pattern, family in _PATTERNS if pattern.search(name)), "o200k")

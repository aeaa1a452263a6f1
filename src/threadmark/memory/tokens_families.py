"""Families of tokenizers: which counts for a model, and which are estimated as relatives of others.

"o200k" and "cl100k", of OpenAI, have prices of their own (`tokens_prices`). The others were measured with the
tokenizers that their makers published: for Claude that is an early one, for Gemini that of Gemma. What their
current models count differs by some per cent more, which the provider's own figures correct.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .tokens_prices import PRICES


@dataclass(frozen=True, slots=True)
class Relative:
    """A family that is priced as `base`, times `times` or what `kinds` says for a class of characters.

    The keys of `kinds` are the first letters of the kinds of pieces (see `tokens_signature.describe`); each
    run of `digits` digits is a token.
    """

    base: str
    times: float = 1.0
    digits: int = 3
    kinds: Mapping[str, float] = field(default_factory=dict)


def _each(factors: str) -> dict[str, float]:
    return {kind: float(factor) for kind, factor in map(str.split, factors.split(","))}


RELATIVES: Mapping[str, Relative] = {
    "claude": Relative("cl100k", 1.12, 3, _each("b 1.3, g 1.3, t 1.7, x 0.9, y 1, z 1")),
    "gemini": Relative(
        "o200k",
        1.1,
        1,
        _each(
            "M 0.55, S 0.5, T 0.75, F 0.75, V 0.85, D 0.6, r 0.95, b 1.05, d 0.9, n 0.9, k 1, x 0.75, y 0.6,"
            " z 0.65"
        ),
    ),
    "llama": Relative(
        "cl100k", 1.0, 3, _each("b 0.57, d 0.55, g 0.45, r 0.73, t 0.55, k 0.65, x 0.7, y 0.66, z 0.7")
    ),
    "qwen": Relative(
        "cl100k", 1.0, 1, _each("M 0.45, S 0.6, b 0.57, h 0.5, t 0.62, r 0.8, k 0.73, x 0.58, y 0.62, z 0.7")
    ),
}
"""Factors measured on `benchmarks/tokens`' texts and on others in 30 languages."""

FAMILIES: tuple[str, ...] = (*PRICES, *RELATIVES)

_MODELS: tuple[tuple[str, str], ...] = (
    (r"gpt-?3\.?5|gpt-?35|gpt-?4(?![\do.]|-?o)|text-embedding-", "cl100k"),
    (r"claude", "claude"),
    (r"gemini|gemma", "gemini"),
    (r"llama-?[34]", "llama"),
    (r"qwen|qwq", "qwen"),
)
_PATTERNS = tuple((re.compile(pattern), family) for pattern, family in _MODELS)


def family_of(model: str) -> str:
    """The family for `provider:model`; that of OpenAI's current models where nothing better is known."""
    name = model.lower()
    return next((family for pattern, family in _PATTERNS if pattern.search(name)), "o200k")


def prices_of(family: str) -> tuple[Mapping[str, tuple[int, ...]], int]:
    """Prices of each kind of piece, in thousandths of a token, and how many digits are one token."""
    relative = RELATIVES.get(family)
    if relative is None:
        return PRICES[family], 3
    return {
        kind: tuple([round(cost * relative.kinds.get(kind[0], relative.times)) for cost in costs])
        for kind, costs in PRICES[relative.base].items()
    }, relative.digits

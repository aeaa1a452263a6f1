"""Token counts that learn from the provider's own figures, and use an exact tokenizer if one is installed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Literal, TypeAlias

from .._errors import ValidationError
from .._types import Json, Message
from .tokens import VERSION, estimate_tokens, message_tokens
from .tokens_families import FAMILIES

Exactness: TypeAlias = Literal["auto", "off"]

# No correction goes further; the default is off by as much as 3.3 in Hindi for an older tokenizer.
LOWEST, HIGHEST = 0.5, 3.5
_WINDOW = 31  # observations kept per model
_MODELS = 64  # models kept; the one observed longest ago goes first
_PLAUSIBLE = (0.2, 5.0)  # ratios outside are of a call that was cut off, cached elsewhere or mixed up
_REMEMBERED = 8192  # texts whose count is at hand; twice as many just before the older half goes
_SMALLEST = 100  # tokens; below, framing that nobody counted outweighs the text


class TokenCounter:
    """Counts tokens for one family of tokenizers, corrected per model by what its provider reported.

    `family` is one of `tokens_families.FAMILIES`. With `exact="auto"` an installed `quicktok-v1`,
    `bpe-openai` or `tiktoken` counts in place of the estimate (its vocabulary must be in its cache: nothing
    is ever downloaded); `exact="off"` always estimates. `state` is what `state()` of an earlier counter gave.

    The correction is the median of the model's last 31 ratios of reported to counted tokens and of one ratio
    of 1, held to 0.5 ... 3.5: one odd report moves it half way at most, two that agree set it, and the order
    within the 31 does not matter.

    Raises ValidationError for an unknown family or exactness, and for a state that `state()` did not give.
    """

    def __init__(
        self, *, family: str = "o200k", exact: Exactness = "auto", state: Mapping[str, Json] | None = None
    ) -> None:
        if family not in FAMILIES:
            raise ValidationError(f"no tokenizer family {family!r}; there are {', '.join(FAMILIES)}")
        if exact not in ("auto", "off"):
            raise ValidationError(f"exact must be 'auto' or 'off', not {exact!r}")
        self.family = family
        self._exact: tuple[str, Callable[[str], int | None]] | None = None
        self._look = (
            exact == "auto"
        )  # tokenizers load in tens of milliseconds, so only when first asked to count
        self._recent: dict[int, int] = {}
        self._older: dict[int, int] = {}
        self._ratios: dict[str, deque[float]] = {} if state is None else _read(state)
        self._factors = {model: correction((1.0, *ratios)) for model, ratios in self._ratios.items()}

    @property
    def name(self) -> str:
        """Which counter this is; counts of one name are comparable."""
        tokenizer = self.tokenizer
        return f"{self.family} estimate {VERSION}" if tokenizer is None else f"{self.family} {tokenizer}"

    @property
    def tokenizer(self) -> str | None:
        """The package that counts exactly, or `None` when counts are estimated."""
        self._find()
        return None if self._exact is None else self._exact[0]

    def raw(self, text: str) -> int:
        """Tokens of `text` before the correction: exact when there is a tokenizer, else estimated.

        Texts of more than 500,000 characters are always estimated.
        """
        # Most of a prompt was counted in the turn before. What is kept of a text is its hash: a text that has
        # changed is another one, and an erased one leaves nothing.
        key = hash(text)
        counted = self._recent.get(key)
        if counted is None:
            counted = self._older.get(key)
            if counted is None:
                counted = self._count(text)
            if len(self._recent) >= _REMEMBERED:
                self._recent, self._older = {}, self._recent
            self._recent[key] = counted
        return counted

    def _count(self, text: str) -> int:
        if self._look:
            self._find()
        if self._exact is not None:
            counted = self._exact[1](text)
            if counted is not None:
                return counted
        return estimate_tokens(text, self.family)

    def raw_message(self, message: Message) -> int:
        """Tokens of a message before the correction."""
        return message_tokens(message, self.raw)

    def count(self, text: str, model: str = "") -> int:
        """Tokens of `text` for `model`: 0 only for the empty text."""
        return self.scale(self.raw(text), model)

    def message(self, message: Message, model: str = "") -> int:
        """Tokens of a message for `model`, its framing included."""
        return self.scale(self.raw_message(message), model)

    def scale(self, tokens: int, model: str = "") -> int:
        """An uncorrected count, corrected for `model`."""
        factor = self._factors.get(model)
        return tokens if factor is None else max(1, round(tokens * factor)) if tokens > 0 else 0

    def ratio(self, model: str = "") -> float:
        """What uncorrected counts for `model` are multiplied by: 1 before any report."""
        return self._factors.get(model, 1.0)

    def observe(self, estimated: int, actual: int, model: str = "") -> None:
        """Learn from one call: `estimated` is the uncorrected count of all that was sent, `actual` what the
        provider reported for it (cached input included).

        Calls of fewer than 100 tokens, and those that differ by more than five times, teach nothing.
        """
        if not plausible(estimated, actual):
            return
        ratios = self._ratios.pop(model, None) or deque(maxlen=_WINDOW)
        ratios.append(round(actual / estimated, 4))
        self._ratios[model] = ratios
        self._factors[model] = correction((1.0, *ratios))
        while len(self._ratios) > _MODELS:
            oldest = next(iter(self._ratios))
            del self._ratios[oldest], self._factors[oldest]

    def state(self) -> dict[str, Json]:
        """What the counter has learned, as JSON of at most some 20 KB, to give to another as `state`."""
        return {"version": 1, "ratios": {model: list(ratios) for model, ratios in self._ratios.items()}}

    def _find(self) -> None:
        if self._look:
            self._exact = exact_counter(self.family)
            self._look = False


def plausible(estimated: int, actual: int) -> bool:
    """Whether what a provider reported can be the count of what was estimated, and teaches something."""
    if estimated < _SMALLEST or actual < _SMALLEST:
        return False
    return _PLAUSIBLE[0] <= actual / estimated <= _PLAUSIBLE[1]


def correction(ratios: Iterable[float]) -> float:
    """By what to multiply counts after such ratios of reported to counted tokens, at least one."""
    ordered = sorted(ratios)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return min(HIGHEST, max(LOWEST, median))


def exact_counter(family: str) -> tuple[str, Callable[[str], int | None]] | None:
    """An installed tokenizer of a family; looking for one is not part of importing this."""
    from .tokens_exact import exact_counter as find

    return find(family)


def _read(state: Mapping[str, Json]) -> dict[str, deque[float]]:
    found: dict[str, deque[float]] = {}
    ratios = state.get("ratios") if isinstance(state, Mapping) and state.get("version") == 1 else None
    if not isinstance(ratios, Mapping):
        raise ValidationError("the state of a token counter has version 1 and ratios")
    for model, values in list(ratios.items())[-_MODELS:]:
        if not isinstance(model, str) or not isinstance(values, (list, tuple)):
            raise ValidationError("the ratios of a token counter are lists by model")
        for value in values:
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not isfinite(value)
                or value <= 0
            ):
                raise ValidationError(f"the ratios of a token counter are positive numbers, not {value!r}")
        if values:
            found[model] = deque(map(float, values), maxlen=_WINDOW)
    return found

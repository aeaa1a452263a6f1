"""How the tokens of a turn's prompt are counted, and how the provider's own figures correct that.

What a model's figures teach is kept with the thread it was learned in (`Window.counted`): a restart, or
another process, goes on with it, a thread in Hindi does not correct one of code, and nobody's texts move
anybody else's budget by much. A thread without figures of its own starts with what the process has learned of
the model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from typing import Any

from .._sync import in_thread
from .._types import Message, Usage
from .tokens_counter import TokenCounter, correction, plausible
from .tokens_families import family_of

_KEPT = 8  # ratios of reported to counted tokens kept for each model of a thread; the first is where it began
_MODELS = 4  # models kept for each thread; the one used longest ago goes first

_default = TokenCounter(exact="off")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """Counts for one prompt: `text` and `message` count uncorrected, `scaled` corrects such a count.

    `by` names the counter: counts are comparable only if it is the same.
    """

    counter: TokenCounter = field(default=_default)
    by: str = _default.name
    scale: float = 1.0

    def text(self, text: str) -> int:
        return self.counter.raw(text)

    def message(self, message: Message) -> int:
        return self.counter.raw_message(message)

    def scaled(self, tokens: int) -> int:
        return int(tokens * self.scale)


class Counters:
    """The token counters of one `Memory`, one for each family of tokenizers, estimating or exact."""

    def __init__(self) -> None:
        self._counters: dict[tuple[str, bool], TokenCounter] = {}

    async def load(self, model: str) -> None:
        """Have the exact tokenizer of a model ready, if one is installed. It takes most of a second, once."""
        key = (family_of(model), True)
        if key not in self._counters:
            counter = TokenCounter(family=key[0])
            await in_thread(partial(counter.raw, "a"), "threadmark-tokenizer")
            self._counters.setdefault(key, counter)

    def of(self, model: str, *, exact: bool) -> TokenCounter:
        """The counter for a model: an exact one if that was asked for and is loaded."""
        family = family_of(model)
        if exact and (loaded := self._counters.get((family, True))) is not None:
            return loaded
        return self._counters.setdefault((family, False), TokenCounter(family=family, exact="off"))


class TurnCounts:
    """How one turn counts, and what it learns. `stored` is what the thread's last turn kept (`dump`)."""

    def __init__(self, counters: Counters, stored: str) -> None:
        self._counters = counters
        self._model = ""
        self._counting = Counting()
        self._history = self._total = 0
        self._last_by, self._last_history, self._ratios = _load(stored)

    def use(self, model: str, *, exact: bool) -> Counting:
        """Count for `model` from now on."""
        counter = self._counters.of(model, exact=exact)
        own = self._ratios.get(f"{model} {counter.name}", ())
        scale = correction(own) if own else counter.ratio(model)
        self._model = model
        self._counting = Counting(counter=counter, by=counter.name, scale=scale)
        return self._counting

    def known(self) -> int | None:
        """What the last turn counted for the history it showed, if it was counted the same way."""
        return self._last_history if self._last_by == self._counting.by else None

    def shown(self, total: int, history: int) -> None:
        """A prompt was made: uncorrected, it is `total` tokens, `history` of them for stored messages."""
        self._total, self._history = total, history

    def learn(self, usage: Usage) -> None:
        """The provider's figures for exactly the prompt that was made last."""
        cached = usage.cache_read_tokens + usage.cache_write_tokens
        # Nearly all report cached input as part of the input; who does not reports more of it than there is.
        sent = usage.input_tokens if usage.input_tokens >= cached else usage.input_tokens + cached
        if self._model and plausible(self._total, sent):
            key = f"{self._model} {self._counting.by}"
            counter = self._counting.counter
            own = self._ratios.pop(key, ()) or (round(counter.ratio(self._model), 3),)
            self._ratios[key] = (*own, round(sent / self._total, 3))[-_KEPT:]
            if len(own) <= 2:  # a long thread does not outvote the others
                counter.observe(self._total, sent, self._model)

    def dump(self) -> str:
        """What to keep with the thread, as JSON."""
        ratios = dict(list(self._ratios.items())[-_MODELS:])
        kept = {"by": self._counting.by, "history": self._history, "ratios": ratios}
        return json.dumps(kept, ensure_ascii=False, separators=(",", ":"))


def _load(stored: str) -> tuple[str, int, dict[str, tuple[float, ...]]]:
    """What `dump` gave. Anything else counts as nothing: it is only ever a saving or a correction."""
    try:
        kept: Any = json.loads(stored) if stored else {}
        ratios = {
            str(key): tuple(float(value) for value in values if isfinite(value) and value > 0)
            for key, values in kept.get("ratios", {}).items()
        }
        by, history = kept.get("by", ""), kept.get("history", 0)
        if isinstance(by, str) and type(history) is int and history >= 0:
            return by, history, ratios
    except (ValueError, TypeError, AttributeError, RecursionError):
        pass
    return "", 0, {}

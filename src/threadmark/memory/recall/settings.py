"""What is recalled, how much of it, and by which arms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from ..._errors import ConfigurationError, ValidationError
from ..._ids import check_count
from ...stores.base import RecallFilter, Scalar
from ...stores.base._observation_search import View
from ...stores.base._recall import MAX_RECALL

if TYPE_CHECKING:
    from ...recall.rerank import Reranker
    from ...vectors import Embedder

RecallMode: TypeAlias = Literal["auto", "lexical", "vector", "hybrid"]
MAX_WINDOW = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticRecall:
    """Settings of recall; `Memory(..., semantic_recall=True)` takes them all as they are here.

    Args:
        top_k: How many messages are found at most.
        window: How many messages before and after each come along: a pair, or one number for both.
        scope: "resource" searches all the owner's threads, "thread" only the current one.
        threshold: The least score of a hit; `None` for none. See `RecallReason` on scores.
        filter: Only messages of threads whose metadata has each of these keys with exactly this value; or
            a `RecallFilter`, which also knows roles, speakers, dates and the messages' own metadata.
        mode: "lexical" searches words; "vector" meaning; "hybrid" both; "auto" both where an embedder can
            be used, else words. "vector" and "hybrid" without one raise `ConfigurationError`.
        embedder: An `Embedder`, an embedder of Pydantic AI, `"provider:model"`, "static" (the package's own
            table) or "minilm"; `None` is the memory's, and that "static" by default where numpy is installed.
        reranker: Orders the best hits anew, from query and text.
        max_tokens: Most tokens (estimated) that recalled messages take in a prompt. A message that would take
            more than its share is cut to the part that fits the question.
        fill: Whether a prompt gets more than `top_k` messages while `max_tokens` has room: more of the
            ranking finds more than neighbours do. By default (`None`) it does while `top_k` and `window` are
            left as they are. It means nothing to `user.recall`.
        recency: Added to the score of the newest candidate, and half of it every `half_life` days before.
        half_life: In days.
        tool: Whether the agent gets the tool `recall`, to search on its own, count, list and read on.
        timeout: Seconds that the embedder has for a question; then words alone are searched.
        language: Of the words in the database's index, for all who use it: which endings make no difference.
            One of `threadmark.recall.languages.LANGUAGES`, "simple" for none; `None` leaves it as it is,
            "english" at first. Another one than the index has begins that anew. Settings for a call or an
            agent cannot change their memory's.
        observations: Whether observations are found, too, up to `top_k` of their own. `True` is "current":
            those that nothing stands for; "live" finds also what summaries stand for, "all" also what was
            superseded or taken back. A turn does only with observational memory, and leaves out what the
            prompt holds already.
    """

    top_k: int = 4
    window: int | tuple[int, int] = (1, 1)
    scope: Literal["resource", "thread"] = "resource"
    threshold: float | None = None
    filter: Mapping[str, Scalar] | RecallFilter | None = None
    mode: RecallMode = "auto"
    embedder: Embedder | str | Any = None
    reranker: Reranker | None = None
    max_tokens: int = 1000
    fill: bool | None = None
    recency: float = 0.0
    half_life: float = 30.0
    tool: bool = True
    timeout: float = 5.0
    observations: bool | View = True
    language: str | None = None

    def __post_init__(self) -> None:
        check_count("top_k", self.top_k, least=1)
        if self.top_k > MAX_RECALL:
            raise ValidationError(f"top_k must be {MAX_RECALL} at most, not {self.top_k}")
        object.__setattr__(self, "window", check_window(self.window))
        if self.scope not in ("resource", "thread"):
            raise ConfigurationError(f"scope must be 'resource' or 'thread', not {self.scope!r}")
        if self.mode not in get_args(RecallMode):
            raise ConfigurationError(
                f"mode must be one of {', '.join(map(repr, get_args(RecallMode)))}, not {self.mode!r}"
            )
        check_number("threshold", self.threshold, optional=True)
        check_number("recency", self.recency, least=0.0)
        for name in ("half_life", "timeout"):
            if check_number(name, getattr(self, name), least=0.0) == 0:
                raise ValidationError(f"{name} must be above 0")
        check_count("max_tokens", self.max_tokens)
        if not isinstance(self.tool, bool):
            raise ConfigurationError(f"tool must be True or False, not {self.tool!r}")
        if not isinstance(self.observations, bool) and self.observations not in get_args(View):
            raise ConfigurationError(
                f"observations must be True, False, 'current', 'live' or 'all', not {self.observations!r}"
            )
        if self.fill is not None and not isinstance(self.fill, bool):
            raise ConfigurationError(f"fill must be True, False or None, not {self.fill!r}")
        if self.reranker is not None and not callable(getattr(self.reranker, "rerank", None)):
            raise ConfigurationError("reranker needs a method `rerank(query, texts)`")
        as_filter(self.filter)
        if self.language is not None:
            from ...recall.languages import check_language

            check_language(self.language)

    @property
    def view(self) -> View | None:
        """Which observations are found; `None` for none."""
        if isinstance(self.observations, bool):
            return "current" if self.observations else None
        return self.observations

    @property
    def fills(self) -> bool:
        """Whether a prompt's room for recall is filled down the ranking."""
        return (self.top_k, self.window) == (4, (1, 1)) if self.fill is None else self.fill

    @property
    def before(self) -> int:
        """How many messages before each hit come along."""
        assert isinstance(self.window, tuple)
        return self.window[0]

    @property
    def after(self) -> int:
        """How many messages after each hit come along."""
        assert isinstance(self.window, tuple)
        return self.window[1]


def as_filter(value: Mapping[str, Scalar] | RecallFilter | None) -> RecallFilter:
    """The filter that an option means: a mapping is of the threads' metadata."""
    if value is None:
        return RecallFilter()
    if isinstance(value, RecallFilter):
        return value
    if isinstance(value, Mapping):
        return RecallFilter(thread_metadata=dict(value))
    raise ConfigurationError(f"filter must be a mapping or a RecallFilter, not {type(value).__name__}")


def check_window(value: object) -> tuple[int, int]:
    """(before, after) from a pair or one number. Raises `ValidationError`."""
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ValidationError(f"window must be a number or a pair (before, after), not {value!r}")
    before, after = check_count("window", pair[0]), check_count("window", pair[1])
    if max(before, after) > MAX_WINDOW:
        raise ValidationError(f"window must be {MAX_WINDOW} at most, not {value!r}")
    return before, after


def check_number(
    name: str, value: object, *, least: float | None = None, optional: bool = False
) -> float | None:
    """`value` if it is a finite number. Raises `ValidationError`."""
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValidationError(f"{name} must be a finite number, not {value!r}")
    if least is not None and value < least:
        raise ValidationError(f"{name} must be at least {least:g}, not {value!r}")
    return float(value)


def within(filter: RecallFilter, threads: tuple[str, ...] | None) -> RecallFilter:
    """`filter` for these threads only; `None` changes nothing."""
    if threads is None:
        return filter
    if filter.thread_ids is not None:
        threads = tuple(name for name in threads if name in filter.thread_ids)
    return replace(filter, thread_ids=threads)

"""What can be asked of observational memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from ..._errors import ConfigurationError
from ..._types import Json
from ._checks import amount, choice, flag, positive, seconds, text, zone
from .extract import Extractor
from .hooks import ObservationHooks

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...models import ModelLike
    from ._types import Observer, Reflector

    ModelChoice: TypeAlias = ModelLike | "ModelByInputTokens"
    """One model, or one for each size of input."""

Idle: TypeAlias = float | timedelta | str | Literal[False]
"""Seconds, a timedelta, "90s", "5m", "2h", "auto" (how long the provider keeps a prompt cached), or False."""

DEFAULT_MESSAGE_TOKENS = 30_000
DEFAULT_OBSERVATION_TOKENS = 40_000
DEFAULT_ATTACHMENTS = ("image/*", "application/pdf")
LEAST_FLOOR = 1_000
"""An absolute `buffer_activation` is at least so many tokens: what is less is taken for a ratio."""

_S = TypeVar("_S")


@dataclass(frozen=True)
class ModelByInputTokens:
    """A model for each size of input: `ModelByInputTokens({10_000: "google:...", 60_000: "openai:..."})`.

    Each bound is the greatest input, in tokens, that its model gets. An input above all bounds goes to the
    model of the greatest. Raises `ConfigurationError` for bounds that are not whole numbers above 0.
    """

    up_to: Mapping[int, ModelLike]

    def __post_init__(self) -> None:
        if not isinstance(self.up_to, Mapping) or not self.up_to:
            raise ConfigurationError(
                "ModelByInputTokens needs a mapping of tokens to models, with one at least"
            )
        for bound in self.up_to:
            if isinstance(bound, bool) or not isinstance(bound, int) or bound < 1:
                raise ConfigurationError(
                    f"a bound of ModelByInputTokens is a number of tokens, not {bound!r}"
                )

    def choose(self, tokens: int) -> ModelLike:
        """The model for an input of that many tokens."""
        return self.up_to[min((bound for bound in self.up_to if tokens <= bound), default=max(self.up_to))]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuationHints:
    """Which hints on how to go on an observer gives: the current task, and what to answer next."""

    current_task: bool = True
    suggested_response: bool = True

    def __post_init__(self) -> None:
        for name in ("current_task", "suggested_response"):
            flag(f"continuation_hints.{name}", getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """The tool `recall_source`: `scope` "resource" reaches all threads of the owner, "thread" this one.

    `instructions` are added to what the model is told of the tool.
    """

    scope: Literal["resource", "thread"] = "resource"
    instructions: str = ""

    def __post_init__(self) -> None:
        choice("retrieval.scope", self.scope, ("resource", "thread"))
        text("retrieval.instructions", self.instructions)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationSettings:
    """How messages become observations.

    Args:
        message_tokens: Observations take the place of messages once so many tokens of messages are not
            observed; default 30,000.
        buffer_tokens: Observe in the background each time so many tokens have come: a fraction of
            `message_tokens` (below 1) or a number; default 0.2. `False`: nothing is done in the background.
        buffer_activation: What stays raw when observations take over: a ratio (up to 1) of
            `message_tokens` that goes, default 0.8, so that 6,000 tokens stay; or, from 1,000 on, the
            number of tokens that stays. Whole exchanges stay.
        block_after: From so many times `message_tokens` (below 100; default 1.2) or so many tokens on, a
            turn waits for its observation, up to `deadline`.
        buffer_on_idle: Also observe what little there is at the end of a turn; default false.
        activate_after_idle: Let observations take over when the thread was idle for so long, since the
            provider's cache is cold then; default that of `ObservationalMemory`.
        activate_on_provider_change: Also when the agent's model changed; default that of
            `ObservationalMemory`.
        model: Who observes; default that of `ObservationalMemory`.
        model_settings: For the model, as in `models.ModelRequest.settings`; default a temperature of 0.3.
        max_tokens_per_batch: Most tokens of messages in one call; default 10,000. A longer message is
            observed in slices.
        previous_observer_tokens: Most tokens of earlier observations that the observer sees; default 2,000.
            `False`: none.
        instruction: Added to the observer's instructions.
        continuation_hints: `False`, `True` (default), or `ContinuationHints(...)`.
        thread_title: Have the observer propose a title of the thread; default false. A title that a user
            gave stays.
        extract: `Extractor`s: values that the observer keeps up to date.
        manage_working_memory: Have the observer keep the working memory up to date, too; default false.
            Needs `working_memory` that may be written.
        observe_attachments: Which files the observer sees: `True` all, `False` none, "auto" those that the
            model is known to take (images and PDF), or patterns of media types; default images and PDF.
            Files that it does not see are named to it.
        observe_on_context_overflow: When the provider refuses a prompt as too long, observe and try once
            more; default true.
    """

    message_tokens: int = DEFAULT_MESSAGE_TOKENS
    buffer_tokens: float | Literal[False] = 0.2
    buffer_activation: float = 0.8
    block_after: float = 1.2
    buffer_on_idle: bool = False
    activate_after_idle: Idle | None = None
    activate_on_provider_change: bool | None = None
    model: ModelChoice | None = None
    model_settings: Mapping[str, Json] = field(default_factory=lambda: {"temperature": 0.3})
    max_tokens_per_batch: int = 10_000
    previous_observer_tokens: int | Literal[False] = 2_000
    instruction: str = ""
    continuation_hints: bool | ContinuationHints = True
    thread_title: bool = False
    manage_working_memory: bool = False
    extract: tuple[Extractor, ...] = ()
    observe_attachments: bool | Literal["auto"] | tuple[str, ...] = DEFAULT_ATTACHMENTS
    observe_on_context_overflow: bool = True

    def __post_init__(self) -> None:
        positive("message_tokens", self.message_tokens)
        if self.buffer_tokens is not False:
            amount("buffer_tokens", self.buffer_tokens, ratio_below=1)
            if not 0 < self.buffer_interval < self.message_tokens:
                raise ConfigurationError("buffer_tokens must be less than message_tokens")
        amount("buffer_activation", self.buffer_activation, ratio_up_to=1, least=LEAST_FLOOR)
        amount("block_after", self.block_after, ratio_from=1, ratio_below=100, least=100)
        positive("max_tokens_per_batch", self.max_tokens_per_batch, least=200)
        if self.previous_observer_tokens is not False:
            positive("previous_observer_tokens", self.previous_observer_tokens, least=0)
        for name in (
            "buffer_on_idle",
            "thread_title",
            "manage_working_memory",
            "observe_on_context_overflow",
        ):
            flag(name, getattr(self, name))
        text("instruction", self.instruction)
        _role(self)
        if not isinstance(self.continuation_hints, (bool, ContinuationHints)):
            raise ConfigurationError("continuation_hints must be True, False or ContinuationHints(...)")
        object.__setattr__(self, "extract", _extractors(self.extract))
        object.__setattr__(self, "observe_attachments", _attachments(self.observe_attachments))

    @property
    def buffer_interval(self) -> int:
        """Tokens of messages between two observations in the background; 0 for none."""
        return _part(self.buffer_tokens or 0, self.message_tokens)

    @property
    def retention_floor(self) -> int:
        """Tokens of the newest messages that stay raw when observations take over."""
        if self.buffer_activation > 1:
            return int(self.buffer_activation)
        return round(self.message_tokens * (1 - self.buffer_activation))

    @property
    def block_tokens(self) -> int:
        """Tokens of messages from which on a turn waits."""
        return _times(self.block_after, self.message_tokens)

    @property
    def hints(self) -> ContinuationHints:
        """Which hints are wanted."""
        wanted = self.continuation_hints
        if isinstance(wanted, ContinuationHints):
            return wanted
        return ContinuationHints(current_task=wanted, suggested_response=wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReflectionSettings:
    """How observations become summaries.

    Args:
        observation_tokens: The log is condensed once it has so many tokens; default 40,000.
        buffer_activation: The share of `observation_tokens` at which this begins in the background;
            default 0.5.
        block_after: From so many times `observation_tokens` (default 1.2) or so many tokens on, summaries
            take over although the provider's cache may be warm, and low-priority lines go where no summary
            could be made.
        activate_after_idle: Let summaries take over when the thread was idle for so long; default that of
            `ObservationalMemory`.
        activate_on_provider_change: Also when the agent's model changed; default that of
            `ObservationalMemory`.
        model: Who reflects; default that of `ObservationalMemory`.
        model_settings: For the model; default a temperature of 0.
        instruction: Added to the reflector's instructions.
        extract: `Extractor`s: values that the reflector brings up to date when it condenses.
    """

    observation_tokens: int = DEFAULT_OBSERVATION_TOKENS
    buffer_activation: float = 0.5
    block_after: float = 1.2
    activate_after_idle: Idle | None = None
    activate_on_provider_change: bool | None = None
    model: ModelChoice | None = None
    model_settings: Mapping[str, Json] = field(default_factory=lambda: {"temperature": 0.0})
    instruction: str = ""
    extract: tuple[Extractor, ...] = ()

    def __post_init__(self) -> None:
        positive("observation_tokens", self.observation_tokens)
        amount("reflection.buffer_activation", self.buffer_activation, ratio_up_to=1)
        if self.buffer_activation > 1:
            raise ConfigurationError("reflection.buffer_activation must be at most 1: a share")
        amount("reflection.block_after", self.block_after, ratio_from=1, ratio_below=100, least=100)
        text("reflection.instruction", self.instruction)
        _role(self)
        object.__setattr__(self, "extract", _extractors(self.extract))

    @property
    def buffer_from(self) -> int:
        """Tokens of observations from which on summaries are made in the background."""
        return round(self.observation_tokens * self.buffer_activation)

    @property
    def block_tokens(self) -> int:
        """Tokens of observations above which the log must shrink at once."""
        return _times(self.block_after, self.observation_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationalMemory:
    """Settings of observational memory; `Memory(..., observational_memory=True)` takes them as they are here.

    Args:
        model: Who observes and reflects: a model as an agent takes it, or `ModelByInputTokens`. Default: the
            agent's own model. Not together with a model for each role; a role without one borrows the
            other's.
        scope: "thread" (default): the model sees the thread's own log. "resource": also a profile, the
            high-priority observations of the owner's other threads. Each thread keeps its own log either way.
        observation: `ObservationSettings(...)`, or a mapping of them.
        reflection: `ReflectionSettings(...)`, or a mapping of them.
        share_token_budget: Messages may also use what the log leaves free of both thresholds together; only
            with `buffer_tokens=False`. Default false.
        temporal_markers: Tell the model of pauses of 10 minutes or more between messages; default false.
        retrieval: The tool `recall_source`, which gives the exact messages behind an observation: `True`,
            `False` (default) or `Retrieval(...)`.
        activate_after_idle: Let what was made in the background take over when the thread was idle for so
            long: seconds, a timedelta, "5m", "auto" (the time for which the provider of the agent's model
            keeps a prompt cached) or `False` (default).
        activate_on_provider_change: Also when the agent's model changed; default false.
        hooks: `ObservationHooks(...)`: your functions, called before and after each role works.
        timezone: The IANA name of the zone in which times are shown; default "UTC".
        redact: Called with each text before an observer sees it and with each line that it gave; what it
            returns takes its place. Default none.
        observer, reflector: Your own, instead of a model's: objects with the methods of
            `memory.observe._types.Observer` and `Reflector`. Default none.
        on_failure: When memory could not be made: "warn" (default) goes on without, and tells it in events
            and in the context report; "skip" tells it in the report only; "raise" fails the turn.
        deadline: Most seconds that a turn waits for memory in all; default 2.
        job_deadline: Most seconds of one job in the background; default 120.
        max_failures: After so many failures in a row of a role, it rests; default 3.
        rest: Seconds that it rests the first time; doubles with each failure up to an hour. Default 60.

    Raises `ConfigurationError` for values that make no sense, alone or together.
    """

    model: ModelChoice | None = None
    scope: Literal["thread", "resource"] = "thread"
    observation: ObservationSettings = field(default_factory=ObservationSettings)
    reflection: ReflectionSettings = field(default_factory=ReflectionSettings)
    share_token_budget: bool = False
    temporal_markers: bool = False
    retrieval: bool | Retrieval = False
    activate_after_idle: Idle = False
    activate_on_provider_change: bool = False
    hooks: ObservationHooks = field(default_factory=ObservationHooks)
    timezone: str = "UTC"
    redact: Callable[[str], str] | None = None
    observer: Observer | None = None
    reflector: Reflector | None = None
    on_failure: Literal["raise", "warn", "skip"] = "warn"
    deadline: float = 2.0
    job_deadline: float = 120.0
    max_failures: int = 3
    rest: float = 60.0

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "observation", _settings(ObservationSettings, "observation", self.observation)
        )
        object.__setattr__(self, "reflection", _settings(ReflectionSettings, "reflection", self.reflection))
        object.__setattr__(self, "hooks", _settings(ObservationHooks, "hooks", self.hooks))
        if self.model is not None and (self.observation.model or self.reflection.model) is not None:
            raise ConfigurationError(
                "give observational memory one model, or a model for each role, not both"
            )
        choice("scope", self.scope, ("thread", "resource"))
        choice("on_failure", self.on_failure, ("raise", "warn", "skip"))
        for name in ("share_token_budget", "temporal_markers", "activate_on_provider_change"):
            flag(name, getattr(self, name))
        if self.share_token_budget and self.observation.buffer_tokens is not False:
            raise ConfigurationError(
                "share_token_budget moves the threshold, so nothing can be made ahead of it: "
                "set observation.buffer_tokens=False"
            )
        if not isinstance(self.retrieval, (bool, Retrieval)):
            raise ConfigurationError("retrieval must be True, False or Retrieval(...)")
        if self.redact is not None and not callable(self.redact):
            raise ConfigurationError("redact must be a function of a text")
        seconds("activate_after_idle", self.activate_after_idle)
        zone(self.timezone)
        for name in ("deadline", "job_deadline", "rest"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 86_400:
                raise ConfigurationError(f"{name} must be seconds, from 0 to a day, not {value!r}")
        positive("max_failures", self.max_failures)

    @property
    def recall(self) -> Retrieval | None:
        """The settings of the recall tool; `None` without it."""
        if isinstance(self.retrieval, Retrieval):
            return self.retrieval
        return Retrieval() if self.retrieval else None

    @property
    def observer_model(self) -> ModelChoice | None:
        """Who observes; `None` means the agent's own model."""
        return _first(self.observation.model, self.model, self.reflection.model)

    @property
    def reflector_model(self) -> ModelChoice | None:
        """Who reflects; `None` means the agent's own model."""
        return _first(self.reflection.model, self.model, self.observation.model)

    def message_threshold(self, observation_tokens: int) -> int:
        """Tokens of raw messages at which observations take over, when the log has so many tokens."""
        own = self.observation.message_tokens
        if not self.share_token_budget:
            return own
        return max(own, own + self.reflection.observation_tokens - observation_tokens)

    def idle_after(self, role: Literal["observation", "reflection"], model: str | None) -> float | None:
        """Seconds of idleness after which a role's work takes over; `None`: never.

        `model` is the name of the agent's model, for "auto".
        """
        own = (self.observation if role == "observation" else self.reflection).activate_after_idle
        return seconds("activate_after_idle", self.activate_after_idle if own is None else own, model)

    def on_provider_change(self, role: Literal["observation", "reflection"]) -> bool:
        """Whether a role's work takes over when the agent's model changed."""
        own = (self.observation if role == "observation" else self.reflection).activate_on_provider_change
        return self.activate_on_provider_change if own is None else own


def _first(*models: ModelChoice | None) -> ModelChoice | None:
    return next((model for model in models if model is not None), None)


def _part(value: float, whole: int) -> int:
    return round(value * whole) if value < 1 else int(value)


def _times(value: float, whole: int) -> int:
    return round(value * whole) if value < 100 else int(value)


def _settings(kind: type[_S], name: str, value: object) -> _S:
    if isinstance(value, kind):
        return value
    if isinstance(value, Mapping):
        known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
        unknown = sorted(str(key) for key in value if key not in known)
        if unknown:
            raise ConfigurationError(
                f"unknown option {unknown[0]!r} of {name}; there are {', '.join(sorted(known))}"
            )
        return kind(**value)
    raise ConfigurationError(f"{name} must be {kind.__name__}(...) or a mapping, not {type(value).__name__}")


def _role(settings: ObservationSettings | ReflectionSettings) -> None:
    if settings.activate_after_idle is not None:
        seconds("activate_after_idle", settings.activate_after_idle)
    if settings.activate_on_provider_change is not None:
        flag("activate_on_provider_change", settings.activate_on_provider_change)
    if not isinstance(settings.model_settings, Mapping):
        raise ConfigurationError("model_settings must be a mapping")


def _extractors(value: object) -> tuple[Extractor, ...]:
    found: tuple[Any, ...] = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not all(isinstance(item, Extractor) for item in found):
        raise ConfigurationError("extract must be Extractor(...) objects")
    slugs = [item.slug for item in found]
    if len(set(slugs)) < len(slugs):
        raise ConfigurationError("two extractors have one slug; give one of them another name")
    return found


def _attachments(value: object) -> bool | Literal["auto"] | tuple[str, ...]:
    if isinstance(value, bool):
        return value
    if value == "auto":
        return "auto"
    patterns: tuple[object, ...] = (
        (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (list, tuple)) else ()
    )
    if not patterns or not all(isinstance(item, str) and "/" in item for item in patterns):
        raise ConfigurationError("observe_attachments must be True, False, 'auto' or patterns like 'image/*'")
    return tuple(str(item) for item in patterns)

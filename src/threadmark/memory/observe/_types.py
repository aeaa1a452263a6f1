"""What passes between the core of observational memory and the models that observe and reflect.

The core decides when and what to observe, and stores the result. It calls an `Observer` with an
`ObserverBatch`, and a `Reflector` with a `ReflectorBatch`, with no transaction open, at most one of each at
a time in a thread. They return drafts that have been parsed, guarded and resolved to real ids; the core
checks ids, coverage and what summaries retain once more, and never stores a draft that fails.

Whatever they raise fails the job: the cursors stay, the messages stay raw, and the core tries again after a
pause. They need no retries or deadlines of their own against a failing provider; the one re-ask for an
unusable answer is theirs. The core cancels a call at its deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from ..._errors import ThreadmarkError
from ..._types import Json, Message, Usage
from ...stores.base import Hints, NewObservation, Observation


class ObservingError(ThreadmarkError):
    """An observer or a reflector gave nothing that can be stored.

    `reason` is one of "empty", "refusal", "unparsable", "loop", "no-sources", "invalid", "timeout" or
    "failed". The message quotes nothing of the conversation. `usage` is what was spent all the same.
    """

    def __init__(self, message: str, *, reason: str = "failed", usage: Usage | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.usage = Usage() if usage is None else usage


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserverBatch:
    """What an observer is to note: the messages of one job, and what it needs to know beside them.

    messages: Oldest first, as stored, with `seq`, `id`, `speaker` and `created_at`. A message holds a whole
        turn of the assistant, so that no tool call is without its outcome. At most `max_batch_tokens` in
        all, unless a single message is larger. Messages may be numbered `m1`, `m2`, ... by position.
    prior: Rows in view that bear on these messages, oldest first, within `prior_tokens`. `prior_omitted`
        counts the rows in view that were left out.
    hints, extracted: As of the last observation.
    working_memory: Its content ("" if there is none), if the observer is to keep it; else `None`.
    now: Time of the observation. `timezone` is the IANA name of the user's zone.
    attempt: 1, or higher when this range was tried before and gave nothing.
    """

    resource_id: str
    thread_id: str
    job_id: str
    messages: tuple[Message, ...]
    prior: tuple[Observation, ...] = ()
    prior_omitted: int = 0
    hints: Hints = field(default_factory=Hints)
    extracted: Mapping[str, Json] = field(default_factory=dict)
    title: str = ""
    working_memory: str | None = None
    now: datetime
    timezone: str = "UTC"
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserverResult:
    """What an observer noted.

    rows: Drafts with `made_by="observer"`, each with at least one source among the batch's messages, or the
        flag "unsourced" and none. `supersedes` holds ids of rows of `prior` only. `said_at` and `tokens` may
        be left out: the core fills them in.
    nothing: Ids of messages about which there is explicitly nothing to note. The core stores one row of
        kind "none" that names them.
    repeats: For each id of a row of `prior` that was noted once more: the messages it was noted from.
        The core adds them to that row's sources instead of adding a row.
    hints: `None` keeps the old ones; its `seq` is filled in by the core.
    title: A title for the thread, if one was asked for.
    working_memory: JSON text of the new one, if it was asked for: a string, the whole of it; or an object,
        the fields that change, where it has a schema. `None` leaves it. One that does not fit is not stored.
    notes: What a guard changed or dropped, one short line each, without content; told with the event.

    A message that is cited by no row, and is not in `nothing` or `repeats`, stays unobserved and comes
    again. So an answer that was cut short covers what its complete lines cite, and no more. For an answer
    that is complete, list messages that no line cites in `nothing`.
    """

    rows: tuple[NewObservation, ...]
    nothing: tuple[str, ...] = ()
    repeats: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hints: Hints | None = None
    extracted: Mapping[str, Json] = field(default_factory=dict)
    title: str | None = None
    working_memory: str | None = None
    usage: Usage = field(default_factory=Usage)
    model: str | None = None
    truncated: bool = False
    notes: tuple[str, ...] = ()


class Observer(Protocol):
    """Makes rows of messages."""

    @property
    def version(self) -> str:
        """Identifies the prompt: a range observed with one version is not observed with it again."""

    async def observe(self, batch: ObserverBatch) -> ObserverResult:
        """Note what is worth keeping. Raises `ObservingError` when there is no usable answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReflectorBatch:
    """Rows to condense: a run of the oldest rows in view, in their order; rules are never among them.

    `target_tokens` is how large the summaries may be in all. `attempt` counts from 1: each further one asks
    for a denser result, `problems` says what was wrong with the one before, one short line each.
    """

    resource_id: str
    thread_id: str
    job_id: str
    rows: tuple[Observation, ...]
    tokens: int
    target_tokens: int
    extracted: Mapping[str, Json] = field(default_factory=dict)
    """The values so far."""
    now: datetime
    timezone: str = "UTC"
    attempt: int = 1
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReflectorResult:
    """Summaries: drafts with `made_by="reflector"`, `kind="summary"` and `children` among the batch's rows.

    No row is a child of two. Rows that are nobody's child stay as they are. The core accepts a summary only
    if it is smaller than its children, and if every high-priority child's numbers, names and quoted words
    stand in it; it drops other summaries one by one. Dates of a summary are the span of its children's;
    the core sets them, and `said_at`, itself.
    """

    rows: tuple[NewObservation, ...]
    extracted: Mapping[str, Json] = field(default_factory=dict)
    """New values; they are merged with those of the observer."""
    usage: Usage = field(default_factory=Usage)
    model: str | None = None
    notes: tuple[str, ...] = ()


class Reflector(Protocol):
    """Makes summaries of rows."""

    @property
    def version(self) -> str:
        """Identifies the prompt: an unchanged log is not condensed with the same version again."""

    async def reflect(self, batch: ReflectorBatch) -> ReflectorResult:
        """Condense rows. Raises `ObservingError` when there is no usable answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Who observes and who reflects. Without a reflector the log is only demoted, which needs no model."""

    observer: Observer
    reflector: Reflector | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedLog:
    """The log as text for a model.

    segments: The stable part, in order: adding rows at the end of the log leaves every earlier segment
        byte-identical, at any time of day and in any time zone of the process. Each is one block of the
        prompt. `ids` names, per segment, the rows in it, so that coverage can be checked.
    tail: The volatile part, which stands after the stable prompt: the time now, what is due or overdue, the
        current hints (empty when stale), conflicts. May be empty.
    instructions: How the model is to use all this. Constant.
    """

    segments: tuple[str, ...]
    ids: tuple[tuple[str, ...], ...]
    tail: str = ""
    instructions: str = ""


class Renderer(Protocol):
    """Makes text of the log: the signature of `render.render_log`."""

    def __call__(
        self,
        rows: Sequence[Observation],
        *,
        profile: Sequence[Observation] = (),
        hints: Hints | None = None,
        now: datetime,
        timezone: str = "UTC",
    ) -> RenderedLog:
        """`rows` are those in view, in order. `profile` rows of the owner's other threads come first."""


RowTokens = Callable[[NewObservation | Observation], int]
"""The estimated size of a row as rendered: the signature of `render.row_tokens`."""

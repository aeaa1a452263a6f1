"""Observations: what was noted about a thread's messages, as rows that are added and never rewritten.

**Coverage.** A thread's log has two cursors over the messages' `seq`: `observed_seq`, up to which messages
were observed, and `visible_seq <= observed_seq`, up to which the rows made from them are in view. `gaps` are
messages at or below `observed_seq` that are not covered all the same: left out by the observer, changed
since, or losing what was noted about them when another message was deleted. A message is *covered* if its
`seq` is at most `visible_seq` and no gap; every other message has to be shown raw. Late arrivals get the
next `seq`, whatever their time, so no clock can hide a message.

**Rows.** A row made by an observer names its sources (messages), one made by a reflector or by demotion
its children (rows). The view is: rows that are visible, not retired, not superseded, and not a child of a
visible row that is not retired. So a summary hides its children and retiring it brings them back.

**Commit protocol.** Claim a job (a range, under a lease, with a fencing token); call the model with no
transaction open; commit rows, cursor, gaps and hints in one transaction, which fails if the lease was taken
over meanwhile. A crash before the commit leaves nothing; repeating it after the commit finds the job done.

**Deletion.** Deleting a message, or changing its parts, removes each row that cites it and each summary over
such a row; other messages those rows cited become gaps, to be observed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from ..._codec import parts_to_json
from ..._errors import ConfigurationError, ValidationError
from ..._ids import check_choice, check_choices, check_count, check_id, check_text
from ..._types import Json, Message

if TYPE_CHECKING:
    from ._turns import WorkingMemoryWrite

ObservationKind: TypeAlias = Literal[
    "fact", "rule", "event", "task", "decision", "tool", "outcome", "summary", "none"
]
"""`rule` is a standing instruction or preference that a user stated, `outcome` work that is completed,
`summary` stands for its children, `none` says that its sources hold nothing to note: it is never rendered."""

Priority: TypeAlias = Literal["high", "medium", "low"]
Maker: TypeAlias = Literal["observer", "reflector", "demotion"]
Origin: TypeAlias = Literal["user", "assistant", "tool"]
"""Who the statement rests on. What rests on tools alone is never a rule, a task or a user's preference."""

JobKind: TypeAlias = Literal["observe", "reflect"]
JobState: TypeAlias = Literal["running", "done", "failed"]
EventPrecision: TypeAlias = Literal["minute", "day", "month", "year"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A message that a row comes from.

    With `start` and `end`, the row quotes that message verbatim: characters `start` (included) to `end`
    (excluded) of the text of its part number `part`, all counted from 0. `seq` is set when read.
    """

    message_id: str
    part: int | None = None
    start: int | None = None
    end: int | None = None
    seq: int | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.part, self.start, self.end) if value is not None]
        if len(given) not in (0, 3) or any(value < 0 for value in given):
            raise ValidationError("a quote has a part, a start and an end, each at least 0")
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise ValidationError("a quote ends after it starts")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewObservation:
    """A row to store. `sources` for an observer's rows, `children` (ids of rows) for summaries.

    `said_at` is when it was said (the newest source's time), `event_from` and `event_to` when what it tells
    of is or was, to the given precision. `supersedes` are ids of rows that this one replaces.
    `tokens` is the estimated size of the row as it is rendered. `count` says how often it was seen.
    A `pending` summary is not in view until `Activation.summaries`.
    """

    kind: ObservationKind
    priority: Priority
    text: str
    made_by: Maker = "observer"
    origin: Origin = "user"
    speaker_id: str | None = None
    subject: str | None = None
    said_at: datetime | None = None
    event_from: datetime | None = None
    event_to: datetime | None = None
    event_precision: EventPrecision | None = None
    sources: tuple[Source, ...] = ()
    children: tuple[str, ...] = ()
    supersedes: tuple[str, ...] = ()
    tokens: int = 0
    count: int = 1
    flags: tuple[str, ...] = ()
    pending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A stored row. `id` is short ("o41"), unique for its owner, and never used again for another row.

    `from_seq` and `to_seq` are the range of messages observed together with it, or those of its children.
    `place` orders rows in the view: a summary stands where its first child stood. `visible` says whether the
    cursor has reached it, `hidden` that something stands for it: a visible row that supersedes it, or a
    visible summary (`parents`); retired rows, and those of kind "none", are hidden too.
    """

    id: str
    thread_id: str
    kind: ObservationKind
    priority: Priority
    text: str
    made_by: Maker
    origin: Origin
    from_seq: int
    to_seq: int
    place: int
    recorded_at: datetime
    speaker_id: str | None = None
    subject: str | None = None
    said_at: datetime | None = None
    event_from: datetime | None = None
    event_to: datetime | None = None
    event_precision: EventPrecision | None = None
    retired_at: datetime | None = None
    superseded_by: str | None = None
    superseded_at: datetime | None = None
    sources: tuple[Source, ...] = ()
    children: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    """Summaries over this row that are visible and not retired."""
    hidden: bool = False
    tokens: int = 0
    count: int = 1
    flags: tuple[str, ...] = ()
    visible: bool = True

    @property
    def is_live(self) -> bool:
        """Whether it is true as far as is known: neither retired nor superseded."""
        return self.retired_at is None and self.superseded_by is None

    @property
    def in_view(self) -> bool:
        """Whether it belongs to the log as the model sees it."""
        return self.visible and not self.hidden


_SETTERS = [(item.name, getattr(Observation, item.name).__set__) for item in fields(Observation)]


def new_observation(**values: Any) -> Observation:
    """`Observation(**values)`, of all its fields, in half the time: a turn reads hundreds of them."""
    made = object.__new__(Observation)
    for name, put in _SETTERS:
        put(made, values[name])
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """What the observer said about how to go on, and the newest message (`seq`) that it knew then.

    Hints are stale once a user's message of a greater `seq` is there.
    """

    current_task: str = ""
    suggested_response: str = ""
    seq: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleHealth:
    """How a role's jobs have gone of late: failures in a row, and the time before which none is tried."""

    failures: int = 0
    retry_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationLog:
    """The state of a thread's log; see the module for the cursors.

    `version` grows with each change of the rows in view. `stubborn` are gaps that several observations left
    uncovered: they are not tried again on their own. `running` are the kinds of jobs under a lease
    that had not run out at the time asked about.
    """

    thread_id: str
    observed_seq: int = 0
    visible_seq: int = 0
    version: int = 0
    gaps: tuple[int, ...] = ()
    stubborn: tuple[int, ...] = ()
    hints: Hints = field(default_factory=Hints)
    extracted: Mapping[str, Json] = field(default_factory=dict)
    observer: RoleHealth = field(default_factory=RoleHealth)
    reflector: RoleHealth = field(default_factory=RoleHealth)
    running: tuple[JobKind, ...] = ()

    def covers(self, seq: int) -> bool:
        """Whether the message of this `seq` is covered by rows in view."""
        return seq <= self.visible_seq and seq not in self.gaps


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationState:
    """What the planning of a thread's memory needs, all of one moment.

    `rows` are the live rows that no visible summary stands for, in order of `place`, those not yet visible
    included; a store may leave out their `sources`. `raw` are the messages that are not covered, oldest
    first, at most `LogQuery.limit` of the newest; `omitted` counts the uncovered messages that are not among
    them. `ends` are the values that `visible_seq` can be moved to, in order: ends of ranges observed
    together. `profile` are rows of the owner's other threads.
    """

    log: ObservationLog
    rows: tuple[Observation, ...] = ()
    raw: tuple[Message, ...] = ()
    omitted: int = 0
    ends: tuple[int, ...] = ()
    profile: tuple[Observation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    """What to read of a thread's log: at most `limit` uncovered messages, and the owner's profile if asked.

    `now` tells which leases have run out. `oldest` reads what is to be observed instead of the newest: the
    oldest messages after `observed_seq` and, as far as `limit` leaves room, gaps that are not stubborn.
    With `profile`, up to that many high-priority rows of the owner's other threads are read, newest kept.
    """

    thread_id: str
    now: datetime
    limit: int = 1000
    oldest: bool = False
    profile: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationQuery:
    """Which rows. `view`: "current" is what a model sees, "live" also what summaries stand for and what
    is not yet visible, "all" also what was superseded or retired, each in order of thread and `place`.

    `as_of` gives what was believed at that time: the rows that an observer had recorded by then and nothing
    had superseded or retired. `valid_at` gives what was true at that time, by what is believed now: the rows
    that held then. A row holds from its event's date on, or from when it was said if it has none, until what
    superseded it holds; one about a span of time until that ends. Both together give what was believed at
    `as_of` about `valid_at`. With one of them `view` is not used.

    `thread_id=None` is all the owner's threads. `text` matches rows that contain it, whatever the case.
    """

    thread_id: str | None = None
    view: Literal["current", "live", "all"] = "current"
    ids: tuple[str, ...] | None = None
    kinds: tuple[str, ...] = ()
    priorities: tuple[str, ...] = ()
    speaker_id: str | None = None
    subject: str | None = None
    message_id: str | None = None
    text: str | None = None
    as_of: datetime | None = None
    valid_at: datetime | None = None
    page: int = 0
    per_page: int | None = 100

    def __post_init__(self) -> None:
        from ..._ids import check_paging

        check_paging(self.page, self.per_page)
        check_choice("view", self.view, ("current", "live", "all"))
        check_choices("kinds", self.kinds, get_args(ObservationKind))
        check_choices("priorities", self.priorities, get_args(Priority))


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationPage:
    """One page of rows. `total` counts all that match; `per_page` is `None` when all were asked for."""

    observations: tuple[Observation, ...]
    total: int
    page: int
    per_page: int | None
    has_more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobClaim:
    """Ask for the right to work on a range of a thread's messages, until `until`.

    `prompt` is the version of the prompt (for "reflect", of the log too): a job of the same range and
    prompt that is done is not given again while its messages stay covered.
    """

    thread_id: str
    kind: JobKind
    id: str
    from_seq: int
    to_seq: int
    prompt: str
    holder: str
    now: datetime
    until: datetime

    def __post_init__(self) -> None:
        check_count("from_seq", self.from_seq, least=1)
        check_count("to_seq", self.to_seq, least=self.from_seq)
        check_id("job", self.id)
        check_text("prompt", self.prompt)
        check_text("holder", self.holder)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationJob:
    """A job as stored. `fence` proves who holds it: it grows with each claim in the thread."""

    id: str
    thread_id: str
    kind: JobKind
    from_seq: int
    to_seq: int
    prompt: str
    holder: str
    fence: int
    state: JobState
    attempts: int
    until: datetime
    started_at: datetime
    finished_at: datetime | None = None
    error: str | None = None
    usage: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """A message that was observed, and the digest of what the observer saw of it (`message_digest`)."""

    message_id: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationCommit:
    """What a finished job stores, in one transaction.

    For "observe": a message of the job's range is covered if it is in `covered`, has not changed since,
    and is a source of one of `rows` (of kind "none" too) or of a repeat; all others become gaps. A row with a
    source that is gone or has changed is left out. `activate` puts the rows in view at once, if all before
    them are.

    For "reflect": rows with `children`; one whose children are not all still live is left out, and a row has
    one summary.

    `hints=None` keeps the old ones; `extracted` is merged; `title` is set unless a user gave one;
    `working_memory` is written (`ConflictError` if it was changed since, and then nothing is stored). What
    names no message is left out if a message of the range was changed since it was read, or if anything in
    the thread was changed or deleted since the job was claimed: it may rest on what the job was told besides.
    So read what a job is told after it is claimed.
    """

    thread_id: str
    job_id: str
    fence: int
    now: datetime
    rows: tuple[NewObservation, ...] = ()
    covered: tuple[Covered, ...] = ()
    repeats: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Ids of live rows of an observer, each with the messages that said it once more: sources to add."""
    activate: bool = False
    hints: Hints | None = None
    extracted: Mapping[str, Json] = field(default_factory=dict)
    title: str | None = None
    working_memory: WorkingMemoryWrite | None = None
    usage: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationReceipt:
    """What was stored: the rows, the messages that stay uncovered, and the log afterwards."""

    rows: tuple[Observation, ...]
    uncovered: tuple[str, ...]
    log: ObservationLog


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFailure:
    """A job that gave nothing. The cursors stay; `retry_at` is when the role may be tried again."""

    thread_id: str
    job_id: str
    fence: int
    now: datetime
    error: str
    retry_at: datetime | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    counts: bool = True
    """Whether it counts as a failure of the role; not if it was only given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """Put buffered rows in view: up to `to_seq`, the end of an observed range; and summaries that wait."""

    thread_id: str
    to_seq: int | None = None
    summaries: bool = False
    now: datetime


def message_digest(message: Message) -> str:
    """Identifies what an observer could see of a message: its role, speaker and parts."""
    speaker = "" if message.speaker is None else message.speaker.id
    text = f"{message.role}\x00{speaker}\x00{parts_to_json(message.parts)}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


class ObservationStore:
    """The operations on observations, of stores that declare the capability "observations"."""

    async def read_observations(self, owner: str, query: LogQuery) -> ObservationState:
        """The state of a thread's log, in one transaction. An unknown thread has an empty one."""
        raise _unsupported()

    async def list_observations(self, owner: str, query: ObservationQuery) -> ObservationPage:
        """Rows of the owner. An unknown thread or id gives none."""
        raise _unsupported()

    async def claim_observation_job(self, owner: str, claim: JobClaim) -> ObservationJob | None:
        """Take a job: `None` if another of its kind is under a lease in the thread, or nothing is to be done.

        For "observe" the range must not cross `visible_seq`, and holds a message that is not observed; one
        above `observed_seq` starts right after it. Raises `NotFoundError` for an unknown thread,
        `ValidationError` for another range.
        """
        raise _unsupported()

    async def commit_observations(self, owner: str, commit: ObservationCommit) -> ObservationReceipt:
        """Store what a job gave. Raises `ConflictError` if the job is not held with this `fence`."""
        raise _unsupported()

    async def fail_observation_job(self, owner: str, failure: JobFailure) -> bool:
        """Record that a job failed, and count it. False if it is not held with this `fence`."""
        raise _unsupported()

    async def activate_observations(self, owner: str, activation: Activation) -> ObservationLog:
        """Move `visible_seq`, and put waiting summaries in view. Never moves back, nor beyond `observed_seq`.

        Raises `ValidationError` for a `to_seq` within a range observed together, `NotFoundError` for an
        unknown thread.
        """
        raise _unsupported()

    async def retire_observations(
        self, owner: str, thread_id: str, ids: Sequence[str], now: datetime
    ) -> list[str]:
        """Undo summaries: retire these rows, so that their children are in view again.

        Returns the ids that were live summaries of this thread; other ids are skipped.
        """
        raise _unsupported()

    async def list_observation_jobs(
        self, owner: str, thread_id: str, *, limit: int | None = 100
    ) -> list[ObservationJob]:
        """Jobs of a thread, newest first."""
        raise _unsupported()


def _unsupported() -> ConfigurationError:
    return ConfigurationError("this store keeps no observations: observational memory needs one that does")

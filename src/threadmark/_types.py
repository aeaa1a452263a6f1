"""The plain, frozen data that every layer shares: messages and their parts, threads, runs, pages.

Nothing here reads or writes anything. Times are aware datetimes in UTC. JSON values are what
`json.loads` gives. Two values with equal fields are equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, ClassVar, Literal, TypeAlias

from ._errors import ValidationError
from ._ids import new_id, utc

Json: TypeAlias = Any
"""A value that JSON can hold."""

Role: TypeAlias = Literal["user", "assistant", "system"]
ToolState: TypeAlias = Literal["call", "result", "error", "denied", "interrupted"]
FinishReason: TypeAlias = Literal[
    "stop", "length", "content-filter", "tool-calls", "max-steps", "usage-limit", "suspended",
    "aborted", "timeout", "tripwire", "error", "other",
]  # fmt: skip
RunStatus: TypeAlias = Literal["running", "finished", "aborted", "failed", "suspended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """Who is talking, where several people share a thread.

    `id` identifies the person, `name` is what to call them, `role` is their function ("reviewer"). Neither id
    nor name may be longer than 512 UTF-8 bytes where it is stored.
    """

    id: str
    name: str | None = None
    role: str | None = None


# -- parts -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text, byte for byte as it came."""

    type: ClassVar[str] = "text"
    text: str
    provider: Mapping[str, Json] | None = None
    """What the provider attached and wants back (ids, signatures, ...), as JSON."""


@dataclass(frozen=True, slots=True)
class ReasoningPart:
    """The model's thinking. `signature` proves to its provider that it is unchanged."""

    type: ClassVar[str] = "reasoning"
    text: str
    signature: str | None = None
    provider: Mapping[str, Json] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePart:
    """A file: its bytes in `data`, or where it is in `url`; exactly one of the two."""

    type: ClassVar[str] = "file"
    media_type: str
    data: bytes | None = None
    url: str | None = None
    name: str | None = None
    provider: Mapping[str, Json] | None = None

    def __post_init__(self) -> None:
        if (self.data is None) == (self.url is None):
            raise ValidationError("a file part has either data or a url")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolPart:
    """A tool call and, once there is one, its outcome: one part from call to result.

    `args` is the parsed JSON the model gave, or the raw string when it was not JSON. In state "result"
    `output` holds the JSON outcome, and `model_output` what a model is shown instead of it, if not `None`; in
    "error", "denied" and "interrupted" `error` says what happened.
    `provider_executed` marks tools that the provider itself ran (web search, code execution). `pause` says
    for what a call waited, and what was decided.
    """

    type: ClassVar[str] = "tool"
    tool_call_id: str
    tool_name: str
    args: Json = field(default_factory=dict)
    state: ToolState = "call"
    output: Json = None
    model_output: Json = None
    error: str | None = None
    provider_executed: bool = False
    provider: Mapping[str, Json] | None = None
    pause: Mapping[str, Json] | None = None
    """`kind` ("approval", "suspension" or "delegation"), and `payload` and `schema` of what was asked.

    Once decided: `decision` ("approved", "declined", "answered", "expired" or "cancelled") and `at`; if known
    `by`, `reason`, `data` (the answer), and `args` (the model's own, where a person edited them). `approval`:
    the same of an approval that came before a suspension.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPart:
    """Marks the start of one model call inside an assistant message.

    The parts up to the next `StepPart` are that call's answer and the outcomes of its tool calls.
    """

    type: ClassVar[str] = "step"
    model: str | None = None
    finish_reason: str | None = None
    usage: Mapping[str, int] | None = None
    provider: Mapping[str, Json] | None = None


@dataclass(frozen=True, slots=True)
class ErrorPart:
    """The run failed here. Shown to people, never sent to a model."""

    type: ClassVar[str] = "error"
    name: str
    message: str


@dataclass(frozen=True, slots=True)
class DataPart:
    """An application's own JSON, stored and shown but never sent to a model."""

    type: ClassVar[str] = "data"
    name: str
    data: Json = None


Part: TypeAlias = TextPart | ReasoningPart | FilePart | ToolPart | StepPart | ErrorPart | DataPart


_set = object.__setattr__


# -- messages ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, init=False)
class Message:
    """One message of a thread. One assistant message holds its whole turn, steps and all.

    Give `text=` or `parts=`. `id` is made when not given; `created_at`, `seq` (the message's place in
    its thread, from 1), `thread_id` and `run_id` are set by the store when it is saved.
    """

    id: str
    role: Role
    parts: tuple[Part, ...]
    speaker: Speaker | None
    metadata: Mapping[str, Json]
    created_at: datetime | None
    seq: int | None
    thread_id: str | None
    run_id: str | None

    def __init__(
        self,
        *,
        text: str | None = None,
        role: Role = "user",
        parts: Sequence[Part] | None = None,
        id: str | None = None,
        speaker: Speaker | None = None,
        metadata: Mapping[str, Json] | None = None,
        created_at: datetime | None = None,
        seq: int | None = None,
        thread_id: str | None = None,
        run_id: str | None = None,
    ) -> None:
        if (text is None) == (parts is None):
            raise ValidationError("a message has either text or parts")
        if text is not None and not isinstance(text, str):
            raise ValidationError(f"message text must be a string, not {type(text).__name__}")
        if role not in ("user", "assistant", "system"):
            raise ValidationError(f"message role must be 'user', 'assistant' or 'system', not {role!r}")
        init = _set
        init(self, "id", new_id() if id is None else id)
        init(self, "role", role)
        init(self, "parts", (TextPart(text),) if text is not None else tuple(parts or ()))
        init(self, "speaker", speaker)
        init(self, "metadata", {} if metadata is None else metadata)
        init(self, "created_at", None if created_at is None else utc("created_at", created_at))
        init(self, "seq", seq)
        init(self, "thread_id", thread_id)
        init(self, "run_id", run_id)

    @classmethod
    def user(cls, text: str, **fields: Any) -> Message:
        """A user's message; `fields` are those of `Message`."""
        return cls(text=text, role="user", **fields)

    @classmethod
    def assistant(cls, text: str, **fields: Any) -> Message:
        """An assistant's message; `fields` are those of `Message`."""
        return cls(text=text, role="assistant", **fields)

    @classmethod
    def system(cls, text: str, **fields: Any) -> Message:
        """A system message: it can be sent to a model, and is never stored."""
        return cls(text=text, role="system", **fields)

    @property
    def text(self) -> str:
        """All text parts, in order, joined as they stand."""
        return "".join([part.text for part in self.parts if isinstance(part, TextPart)])

    @classmethod
    def stored(
        cls,
        id: str,
        role: Role,
        parts: tuple[Part, ...],
        speaker: Speaker | None,
        metadata: Mapping[str, Json],
        created_at: datetime | None,
        seq: int | None,
        thread_id: str | None,
        run_id: str | None,
    ) -> Message:
        """Make a message of trusted values, unchecked: what reading a row needs, fast."""
        self = object.__new__(cls)
        init = _set
        init(self, "id", id)
        init(self, "role", role)
        init(self, "parts", parts)
        init(self, "speaker", speaker)
        init(self, "metadata", metadata)
        init(self, "created_at", created_at)
        init(self, "seq", seq)
        init(self, "thread_id", thread_id)
        init(self, "run_id", run_id)
        return self

    def replace(self, **changes: Any) -> Message:
        """A copy with some fields changed; `text=` replaces all parts."""
        if "text" not in changes:
            changes.setdefault("parts", self.parts)
        for name in ("id", "role", "speaker", "metadata", "created_at", "seq", "thread_id", "run_id"):
            changes.setdefault(name, getattr(self, name))
        return Message(**changes)


# -- threads and runs --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadSource:
    """Where a cloned thread came from. Set once by the store; not part of the user's metadata."""

    thread_id: str
    cloned_at: datetime
    last_message_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """A conversation of one resource (its owner). `version` grows with each change of title or metadata."""

    id: str
    resource_id: str
    title: str = ""
    title_source: Literal["user", "generated"] | None = None
    metadata: Mapping[str, Json] = field(default_factory=dict)
    created_at: datetime
    updated_at: datetime
    message_count: int = 0
    last_seq: int = 0
    version: int = 1
    source: ThreadSource | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens and requests of model calls. Add two to sum them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    requests: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def to_dict(self) -> dict[str, int]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The record of one turn: who answered, how it ended, what it cost."""

    id: str
    thread_id: str
    agent: str
    status: RunStatus
    finish_reason: FinishReason | None = None
    usage: Usage = field(default_factory=Usage)
    error: str | None = None
    started_at: datetime
    finished_at: datetime | None = None
    version: int = 1
    state: Mapping[str, Json] | None = None
    """What a paused run needs to go on; `None` for others."""
    expires_at: datetime | None = None
    """Until when a paused run can be answered, or a running one counts as alive; `None`: without end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkingMemoryVersion:
    """One version of a working memory. Versions are only added, never changed; the newest is current.

    `thread_id` is `None` for the resource's own. `content` is text, or JSON text where there is a schema.
    `changed_by` says who made it ("agent", "user", "revert", ...), `run_id` in which turn.
    """

    resource_id: str
    thread_id: str | None
    version: int
    content: str
    changed_by: str
    run_id: str | None = None
    created_at: datetime


# -- pages and receipts ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadPage:
    """One page of threads. `total` counts all that match; `per_page` is `None` when all were asked for.

    `next_cursor` asks for the next page (`cursor=`), `None` when there is none. On a page asked for in this
    way `page` is 0, and `total` what the first one counted.
    """

    threads: tuple[Thread, ...]
    total: int
    page: int
    per_page: int | None
    has_more: bool
    next_cursor: str | None = None

    def __iter__(self) -> Iterator[Thread]:
        return iter(self.threads)

    def __len__(self) -> int:
        return len(self.threads)


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagePage:
    """One page of messages. `total` counts all that match; `per_page` is `None` when all were asked for.

    `next_cursor` asks for the next page (`cursor=`), `None` when there is none. On a page asked for in this
    way `page` is 0, and `total` what the first one counted.
    """

    messages: tuple[Message, ...]
    total: int
    page: int
    per_page: int | None
    has_more: bool
    next_cursor: str | None = None

    def __iter__(self) -> Iterator[Message]:
        return iter(self.messages)

    def __len__(self) -> int:
        return len(self.messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """One page of runs, newest first."""

    runs: tuple[Run, ...]
    total: int
    page: int
    per_page: int | None
    has_more: bool

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadClone:
    """A new thread and where each of its messages came from: `id_map[source id] == copy's id`."""

    thread: Thread
    id_map: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureReceipt:
    """What an erasure removed: rows per table. `scrubbed` is true when no byte of it is left in the file.

    `thread_id` is `None` for all of an owner, `speaker_id` set where one speaker of a thread was erased.
    """

    resource_id: str
    thread_id: str | None
    removed: Mapping[str, int]
    scrubbed: bool
    erased_at: datetime
    speaker_id: str | None = None

    @property
    def total(self) -> int:
        return sum(self.removed.values())

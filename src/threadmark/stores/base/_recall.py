"""Requests, answers and operations of the recall index.

A store that declares the capability "recall" keeps an index of message text for each owner and, for any
number of embedders, their vectors. It is off until `enable_recall`. Whether it is on is kept in the
database: from then on every operation that adds, changes, copies, moves or removes messages, from whichever
process, brings the index up to date in its own transaction. Messages from before are indexed by
`backfill_recall`, in batches.

Each embedder has a space of its own, known by the embedder's name; vectors of two spaces never meet. While a
space exists, a message that is written waits in the outbox until somebody has claimed it and stored its
vectors. Messages from before the space was added are handed out too, after newer ones. A claim is a lease:
when it has run out, others may claim the message. What is stored for a claim that no longer holds, because
the message was changed, deleted or claimed by another since, is dropped.

What an index holds and how it ranks is decided by `threadmark.recall`: `searchable` is the text of a
message, `gather.search` the ranking over the `gather.Source` that a store provides. Statistics are counted
over the owner's messages alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from ..._errors import ConfigurationError, ValidationError
from ..._ids import check_choices, check_count, check_filter, check_paging, check_texts
from ..._types import Message, MessagePage, Thread
from ._threads import Direction, Scalar

if TYPE_CHECKING:
    from ...recall.query import Query
    from ...recall.rank import Settings, Why

MAX_RECALL = 1000
"""Most hits of one search, those skipped included."""

SEARCHED = ("user", "assistant")
"""Roles of messages that can be found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallFilter:
    """Which of an owner's messages may be found; all conditions must hold, empty ones hold always.

    `thread_ids=None` allows all threads. `since` and `until` bound `created_at`, both included.
    `speaker_id` is exact; of `speakers`, names (ids where there is none) as `list_speakers` gives them, any
    will do. `metadata` are exact scalar matches on the message, `thread_metadata` on its
    thread, as they are when the search runs. `exclude_ids` are left out, and of each thread in
    `exclude_from` the messages from that `seq` on: what the prompt holds already. All of it is decided before
    places are given, so nothing that is left out takes one.
    """

    thread_ids: tuple[str, ...] | None = None
    roles: tuple[str, ...] = ()
    speaker_id: str | None = None
    speakers: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    thread_metadata: Mapping[str, Scalar] = field(default_factory=dict)
    exclude_ids: tuple[str, ...] = ()
    exclude_from: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_filter(self.metadata)
        check_filter(self.thread_metadata)
        check_choices("roles", self.roles, SEARCHED)
        for name in ("thread_ids", "speakers", "exclude_ids"):
            if isinstance(getattr(self, name), str):
                raise ValidationError(f"{name} is a tuple of strings, not one string")
            check_texts(name, getattr(self, name) or ())
        for seq in self.exclude_from.values():
            check_count("exclude_from", seq)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallQuery:
    """A search in one owner's messages.

    `query` is text, which the store analyses with the names of the owner's speakers, or a `Query` made by
    `threadmark.recall.query.parse_query`. `vector` is the embedding of `Query.embed` by the embedder named
    `space`: little-endian float32 bytes of length 1, as `CheckedEmbedder` gives them. With `lexical=False`
    only vectors are searched. `threshold` is the least score. `before` and `after` ask for that many
    neighbours of each hit. Raises `ValidationError` for what makes no sense.
    """

    query: Query | str
    vector: bytes | None = None
    space: str | None = None
    lexical: bool = True
    limit: int = 10
    offset: int = 0
    threshold: float | None = None
    filter: RecallFilter = field(default_factory=RecallFilter)
    before: int = 0
    after: int = 0
    settings: Settings | None = None

    def __post_init__(self) -> None:
        for name in ("limit", "offset", "before", "after"):
            check_count(name, getattr(self, name))
        if self.limit + self.offset > MAX_RECALL:
            raise ValidationError(f"limit and offset are {MAX_RECALL} at most together")
        if not isinstance(self.query, str) and not hasattr(self.query, "terms"):
            raise ValidationError(f"query is text or a Query, not {type(self.query).__name__}")
        if (self.vector is None) != (self.space is None):
            raise ValidationError("a vector needs the name of its space, and a space a vector")
        if self.vector is None and not self.lexical:
            raise ValidationError("a search needs a vector or `lexical=True`")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallHit:
    """A message that was found. `why` holds the parts of its score; the first hit has `rank` 1."""

    message: Message
    score: float
    rank: int
    why: Why


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallAnswer:
    """What a search found, best first.

    `messages` are the hits and the neighbours asked for, each once, ordered by thread (the oldest first),
    then `seq`; neighbours need not pass the filter. `indexed` counts the owner's messages in the index,
    `embedded` those with vectors in the query's space: fewer than `indexed` means that some still wait.
    """

    hits: tuple[RecallHit, ...] = ()
    messages: tuple[Message, ...] = ()
    indexed: int = 0
    embedded: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchQuery:
    """All messages that hold the words of `text` (all of them, or any with `any_word=True`), by time.

    Words are compared as the index does: without case, accents and English endings. Words of English
    grammar are left out unless there are no others. An empty `text` matches every message that passes the
    filter. `lagging` allows the answer of a copy that lags behind, where a store has one.
    """

    text: str = ""
    any_word: bool = False
    filter: RecallFilter = field(default_factory=RecallFilter)
    order: Direction = "asc"
    page: int = 0
    per_page: int = 50
    lagging: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise ValidationError(f"text must be a string, not {type(self.text).__name__}")
        check_paging(self.page, self.per_page)
        if self.order not in ("asc", "desc"):
            raise ValidationError(f"order must be 'asc' or 'desc', not {self.order!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadHit:
    """A thread that was found as a whole. `terms` are the query's terms that occur in it."""

    thread: Thread
    score: float
    rank: int
    terms: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceState:
    """One embedder's space.

    `embedded` messages have vectors; `waiting` messages and observations are in the outbox, `failing` of them
    were tried in vain; `unqueued` are messages from before the space that were not handed out yet. `oldest`
    is when what waits longest was written to the outbox, `error` what the last failure was.
    """

    name: str
    dimension: int
    embedded: int
    waiting: int
    failing: int
    unqueued: int
    oldest: datetime | None
    error: str | None

    @property
    def complete(self) -> bool:
        """Whether nothing waits for its vectors."""
        return not self.waiting and not self.unqueued


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallState:
    """The index as a whole: `indexed` of the database's `messages`, and `indexed_observations` of its
    `observations`. `bytes` is the room that it takes, if known.

    `outdated`: it was made by another version of the text analysis, and `enable_recall` begins it anew.
    """

    enabled: bool
    outdated: bool = False
    indexed: int = 0
    messages: int = 0
    spaces: tuple[SpaceState, ...] = ()
    bytes: int | None = None
    indexed_observations: int = 0
    observations: int = 0

    @property
    def complete(self) -> bool:
        """Whether every message and observation of the database is in the index."""
        return (
            self.enabled
            and not self.outdated
            and self.indexed >= self.messages
            and self.indexed_observations >= self.observations
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallProgress:
    """What one batch of `backfill_recall` did: `indexed` messages. `finished`: nothing is left to do."""

    indexed: int
    finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A message to embed. `token` names the claim, `attempts` counts failures before it.

    With `observation`, the id of one, `message` holds its text, and is no stored message.
    """

    owner: str
    message: Message
    token: str
    attempts: int = 0
    observation: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """The vectors of a claimed message, one for each piece of its text; none when it has no text.

    Each is little-endian float32 bytes of length 1, as `CheckedEmbedder` gives them.
    """

    token: str
    vectors: Sequence[bytes] = ()


class RecallStore:
    """The recall index's operations. Without the capability "recall" each raises `ConfigurationError`."""

    async def recall_state(self, *, sizes: bool = False) -> RecallState:
        """How far the index is. It counts rows, so it is for people and tests; `sizes` measures bytes too."""
        raise _unsupported(self)

    async def enable_recall(self, now: datetime) -> RecallState:
        """Switch the index on, for every process that uses the database. Idempotent.

        What was written before is not indexed yet: see `backfill_recall`.
        """
        raise _unsupported(self)

    async def disable_recall(self) -> None:
        """Switch the index off and remove all of it, vectors and spaces too. Idempotent."""
        raise _unsupported(self)

    async def backfill_recall(self, *, limit: int = 500) -> RecallProgress:
        """Index up to `limit` messages from before the index was on, or observations, in one transaction.

        Call it until it is finished. It goes on where any process left it; several may take turns.
        """
        raise _unsupported(self)

    # -- searching -----------------------------------------------------------------------------------

    async def search_messages(self, owner: str, query: RecallQuery) -> RecallAnswer:
        """Rank the owner's messages. Raises `ConfigurationError` while recall is off.

        Also raises it for an unknown space and a vector of another dimension.
        """
        raise _unsupported(self)

    async def match_messages(self, owner: str, query: MatchQuery) -> MessagePage:
        """A page of all matching messages, with their total.

        Raises `ConfigurationError` while recall is off.
        """
        raise _unsupported(self)

    async def search_threads(
        self, owner: str, query: Query | str, *, limit: int = 10, metadata: Mapping[str, Scalar] | None = None
    ) -> list[ThreadHit]:
        """Rank the owner's threads by how well each covers the query as a whole, best first.

        Raises `ConfigurationError` while recall is off.
        """
        raise _unsupported(self)

    async def list_speakers(self, owner: str) -> list[str]:
        """The names (ids where there is none) of those who wrote indexed messages of the owner, in order."""
        raise _unsupported(self)

    # -- vectors -------------------------------------------------------------------------------------

    async def add_space(self, name: str, dimension: int, now: datetime) -> SpaceState:
        """Make a space for the embedder called `name`, unless it is there. Needs recall to be on.

        Raises `ConfigurationError` if it is there with another dimension, or while recall is off.
        """
        raise _unsupported(self)

    async def drop_space(self, name: str) -> bool:
        """Remove a space with its vectors and what waits for them. False if there was none."""
        raise _unsupported(self)

    async def claim_embeddings(
        self, space: str, *, limit: int = 32, now: datetime, lease: float = 60.0
    ) -> list[Claim]:
        """Take up to `limit` messages that wait for vectors, the newest first, for `lease` seconds.

        Empty when none is due. Raises `ConfigurationError` for an unknown space.
        """
        raise _unsupported(self)

    async def store_embeddings(self, space: str, embedded: Sequence[Embedded]) -> int:
        """Keep vectors in place of what the messages had. Returns how many claims still held.

        Raises `ValidationError` for a vector of another dimension or with values that are not finite.
        """
        raise _unsupported(self)

    async def fail_embeddings(
        self, space: str, tokens: Sequence[str], *, error: str, retry_at: datetime
    ) -> int:
        """Put claimed messages back until `retry_at`, one attempt later. Returns how many claims still held.

        `error` says what happened, without any of the messages' text. With an empty `error` the attempt does
        not count: the claim is only given back. `retry_at` may be half a day ahead at most: what is due
        more than a day from now counts as put off by a clock that has been set back since, and is due.
        """
        raise _unsupported(self)


def _unsupported(store: object) -> ConfigurationError:
    return ConfigurationError(
        f"{type(store).__name__} keeps no recall index; use a store with the capability 'recall'"
    )

"""The contract between Threadmark and a database.

Every operation names its `owner` (a resource id) first, and can reach nothing else: another owner's row
is as absent as one that never was. Two owners may use the same thread id and the same message id. A store
never reads a clock and never invents an id: times and ids come with the request, and the only number it
gives is a message's `seq`, counted per thread from 1 without gaps, inside the transaction that
saves it.

Each writing method is one transaction: all of it or nothing, durable before it returns. Writers from any
number of tasks, event loops, threads and processes may call at once.

Errors: `ConflictError` (exists, or changed since), `NotFoundError`, `ValidationError`, `StoreError`.
`threadmark.testing.conformance` checks all of this for any store.
"""

from ._cursors import Place, paged, place_of, rows_wanted
from ._messages import MessageChange, MessageQuery
from ._observation_search import (
    ObservationAnswer,
    ObservationHit,
    ObservationSearch,
    ObservationSearchStore,
)
from ._observations import (
    Activation,
    Covered,
    Hints,
    JobClaim,
    JobFailure,
    JobKind,
    LogQuery,
    NewObservation,
    Observation,
    ObservationCommit,
    ObservationJob,
    ObservationKind,
    ObservationLog,
    ObservationPage,
    ObservationQuery,
    ObservationReceipt,
    ObservationState,
    ObservationStore,
    Priority,
    RoleHealth,
    Source,
    message_digest,
)
from ._personal import CONTEXT_PART, MEMORY_TOOLS, without_open_calls, without_personal
from ._recall import (
    Claim,
    Embedded,
    MatchQuery,
    RecallAnswer,
    RecallFilter,
    RecallHit,
    RecallProgress,
    RecallQuery,
    RecallState,
    RecallStore,
    SpaceState,
    ThreadHit,
)
from ._store import Store
from ._threads import (
    CloneRequest,
    Direction,
    NewThread,
    OrderField,
    Scalar,
    SpeakerErasure,
    ThreadChange,
    ThreadQuery,
)
from ._turns import (
    RunWrite,
    TurnQuery,
    TurnReceipt,
    TurnState,
    TurnWrite,
    Window,
    WorkingMemoryWrite,
)

__all__ = [
    "Activation",
    "CONTEXT_PART",
    "Claim",
    "CloneRequest",
    "Covered",
    "Direction",
    "Embedded",
    "Hints",
    "JobClaim",
    "JobFailure",
    "JobKind",
    "LogQuery",
    "MEMORY_TOOLS",
    "MatchQuery",
    "MessageChange",
    "MessageQuery",
    "NewObservation",
    "NewThread",
    "Observation",
    "ObservationAnswer",
    "ObservationCommit",
    "ObservationHit",
    "ObservationJob",
    "ObservationKind",
    "ObservationLog",
    "ObservationPage",
    "ObservationQuery",
    "ObservationReceipt",
    "ObservationSearch",
    "ObservationSearchStore",
    "ObservationState",
    "ObservationStore",
    "OrderField",
    "Place",
    "Priority",
    "RecallAnswer",
    "RecallFilter",
    "RecallHit",
    "RecallProgress",
    "RecallQuery",
    "RecallState",
    "RecallStore",
    "RoleHealth",
    "RunWrite",
    "Scalar",
    "Source",
    "SpaceState",
    "SpeakerErasure",
    "Store",
    "ThreadChange",
    "ThreadHit",
    "ThreadQuery",
    "TurnQuery",
    "TurnReceipt",
    "TurnState",
    "TurnWrite",
    "Window",
    "WorkingMemoryWrite",
    "message_digest",
    "paged",
    "place_of",
    "rows_wanted",
    "without_open_calls",
    "without_personal",
]

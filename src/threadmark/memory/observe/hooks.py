"""An application's own functions around the work of observer and reflector."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias, TypeVar

from ..._errors import ConfigurationError
from ..._types import Message, Usage
from ...stores.base import NewObservation, Observation

Role: TypeAlias = Literal["observer", "reflector"]
_T = TypeVar("_T")
Made: TypeAlias = _T | Awaitable[_T]


@dataclass(frozen=True, slots=True, kw_only=True)
class HookContext:
    """About which work a hook is called.

    At the end, `usage` is what the model used, `rows` what was noted, and `error` what failed, if it did.
    """

    role: Role
    resource_id: str
    thread_id: str
    job_id: str
    usage: Usage = field(default_factory=Usage)
    rows: int = 0
    error: str | None = None


Told: TypeAlias = Callable[[HookContext], Made[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationHooks:
    """Functions, plain or async, that are called around each job. All are optional.

    Args:
        on_observation_start, on_observation_end, on_reflection_start, on_reflection_end: Called with a
            `HookContext`. What they raise is logged and changes nothing.
        before_observation: Called with the messages; returns those that the observer shall see. Messages
            that it leaves out are stored as having nothing to note: it decides what memory forgets.
        after_observation: Called with the rows; returns those to store. Messages whose rows it leaves out
            count as having nothing to note.
        before_reflection: Called with the rows to condense; returns those that the reflector shall see.
        after_reflection: Called with the summaries; returns those to store.

    A "before" or "after" hook that raises fails the job: it is tried again after a pause.
    """

    on_observation_start: Told | None = None
    on_observation_end: Told | None = None
    on_reflection_start: Told | None = None
    on_reflection_end: Told | None = None
    before_observation: Callable[[Sequence[Message]], Made[Sequence[Message]]] | None = None
    after_observation: Callable[[Sequence[NewObservation]], Made[Sequence[NewObservation]]] | None = None
    before_reflection: Callable[[Sequence[Observation]], Made[Sequence[Observation]]] | None = None
    after_reflection: Callable[[Sequence[NewObservation]], Made[Sequence[NewObservation]]] | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value: Any = getattr(self, item.name)
            if value is not None and not callable(value):
                raise ConfigurationError(
                    f"the hook {item.name} must be a function, not {type(value).__name__}"
                )

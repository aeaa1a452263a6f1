"""Every error Threadmark raises on purpose.

    ThreadmarkError
    ├── ConfigurationError      an option, URL or dependency is wrong or missing
    ├── ValidationError         an argument is not acceptable (empty id, negative page, not JSON, ...)
    ├── NotFoundError           it does not exist, or it is not yours: the two look the same
    ├── ConflictError           it exists already, or it changed since you read it
    │   └── ApprovalError       a decision came too late, twice, or for other arguments
    ├── OwnershipError          another owner's, said only where existence is no secret
    ├── StoreError              the database failed, was full, read-only, or is no database
    │   ├── StoreBusyError      others kept the database locked for longer than `busy_timeout`
    │   └── SchemaVersionError  the database was written by a newer Threadmark
    ├── ModelError              the model failed, or answered with nothing usable
    │   └── OutputError         the answer does not fit the schema that was asked for
    ├── ProcessorError          a processor failed or returned what it may not; nothing was stored
    ├── TripwireError           raised in a processor to stop the run; a result's `tripwire` tells of it
    └── WorkflowStepError       a step of a workflow failed, or its outcome is unknown

Messages quote identifiers with `!r`, say what to do, and never hold another owner's data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ThreadmarkError(Exception):
    """Base of all errors raised on purpose.

    `result` is set when an agent had already produced an answer before the error (for example when
    the answer could not be saved); it is then an `AgentResult`, otherwise `None`.
    """

    result: Any = None


class ConfigurationError(ThreadmarkError):
    """An option, URL or optional dependency is wrong or missing."""


class ValidationError(ThreadmarkError):
    """An argument is not acceptable; nothing was read or written."""


class NotFoundError(ThreadmarkError):
    """It does not exist for this owner."""


class ConflictError(ThreadmarkError):
    """It exists already, or it changed since it was read."""


class OwnershipError(ThreadmarkError):
    """It belongs to somebody else. Raised only where revealing that it exists is safe."""


class StoreError(ThreadmarkError):
    """The database could not do it; what was being written was rolled back."""


class StoreBusyError(StoreError):
    """Other writers kept the database locked for longer than the store's `busy_timeout`."""


class SchemaVersionError(StoreError):
    """The database was written by a newer Threadmark than this one."""


class ModelError(ThreadmarkError):
    """The model failed. `status` is the provider's HTTP status when there was one."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class OutputError(ModelError):
    """No answer fitted the schema of `output`; the message says what was wrong with the last one."""


class ProcessorError(ThreadmarkError):
    """A hook of a processor raised, or returned what it may not. Nothing of the turn was stored.

    `processor` is the processor's name, `hook` the hook's; `__cause__` is what the hook raised.
    """

    def __init__(self, message: str, *, processor: str = "", hook: str = "") -> None:
        super().__init__(message)
        self.processor = processor
        self.hook = hook


class TripwireError(ThreadmarkError):
    """Raised in a processor to stop the run, or with `retry` to have the step answered again.

    Agents do not let it out: the run ends with a result whose `tripwire` holds `reason` and `metadata`.
    """

    processor: str = ""
    hook: str = ""

    def __init__(
        self, reason: str, *, retry: bool = False, metadata: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry = retry
        self.metadata: Mapping[str, Any] = {} if metadata is None else metadata


class WorkflowStepError(ThreadmarkError):
    """A step of a workflow failed; `step` is its name. It is raised again when the run is gone on with."""

    def __init__(self, message: str, *, step: str) -> None:
        super().__init__(message)
        self.step = step


class ApprovalError(ConflictError):
    """A decision on a pending call came too late, twice, or for other arguments; nothing was done."""

"""How a workflow's function is left before its end, and what that means for its run.

None of these is an `Exception`: a function that catches every exception must not go on by accident.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from .._errors import ConflictError

Status: TypeAlias = Literal["running", "finished", "suspended", "failed", "aborted"]


class Suspended(BaseException):
    """Ends the function of a run that waits for an answer. Not an `Exception`, so that nobody catches it."""


class Lost(BaseException):
    """Ends the function of a run that must not go on here. Not an `Exception`: whoever caught it would go on.

    `ours`: nobody else has the run; its function does not fit what is recorded.
    """

    def __init__(self, error: ConflictError, *, ours: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.ours = ours


class Bail(BaseException):
    """Ends the function of a run early, as a success."""

    def __init__(self, output: Any) -> None:
        super().__init__("a workflow ended early")
        self.output = output


def ended_by(signal: BaseException) -> tuple[Status, Any, BaseException | None]:
    """How a run ends whose function was left by `signal`."""
    if isinstance(signal, Bail):
        return "finished", signal.output, None
    if isinstance(signal, Suspended):
        return "suspended", None, None
    return "running", None, signal


def first_of(group: BaseExceptionGroup[BaseException], kind: type[BaseException]) -> BaseException | None:
    """An exception of a group that is of `kind`."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            error_ = first_of(error, kind)
            if error_ is not None:
                return error_
        elif isinstance(error, kind):
            return error
    return None

"""What a paused run waits for, as callers see it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from .._codec import time_from_text
from .._types import Json, Part, Run, ToolPart
from ..memory.runs import digest_of, is_unknown, is_waiting

APPROVAL_SCHEMA: Mapping[str, Json] = {
    "type": "object",
    "properties": {
        "approved": {"type": "boolean"},
        "reason": {"type": "string"},
        "args": {"type": "object", "description": "Instead of the model's."},
    },
    "required": ["approved"],
}
"""What a decision on an approval is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingCall:
    """A call that waits for a person: for approval before it is made, or, suspended, for an answer.

    `payload` is what a suspended call asks, `resume_schema` the JSON schema of a decision or answer (`None`:
    any JSON). `digest` identifies tool and arguments: a decision given with this object, rather than with
    the call's id alone, holds for exactly these. `path` are the keys of the sub-agents between the agent
    that was called and the one that makes the call.
    """

    tool_call_id: str
    tool_name: str
    args: Json
    kind: Literal["approval", "suspension"] = "approval"
    payload: Json = None
    resume_schema: Mapping[str, Json] | None = None
    digest: str = ""
    path: tuple[str, ...] = ()
    via: tuple[str, ...] = ()
    """Ids of the delegating calls along `path`."""

    def to_dict(self) -> dict[str, Json]:
        """The call as a JSON object."""
        return {
            "tool_call_id": self.tool_call_id,
            "tool_name": self.tool_name,
            "args": self.args,
            "kind": self.kind,
            "payload": self.payload,
            "resume_schema": self.resume_schema,
            "digest": self.digest,
            "path": list(self.path),
            "via": list(self.via),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> PendingCall:
        """The call of a JSON object that `to_dict` made."""
        return cls(**{**value, "path": tuple(value["path"]), "via": tuple(value["via"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspendedRun:
    """A run that waits. `unknown` are calls whose process died before it could store what came of them.

    With nothing in `pending` the run can be gone on with at once: `agent.resume(run_id)`.
    """

    run_id: str
    agent: str
    resource_id: str
    thread_id: str
    pending: tuple[PendingCall, ...]
    unknown: tuple[ToolPart, ...] = ()
    started_at: datetime
    suspended_at: datetime | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspendedRunPage:
    """One page of runs that wait, newest first."""

    runs: tuple[SuspendedRun, ...] = field(default=())
    total: int
    page: int
    per_page: int | None
    has_more: bool

    def __iter__(self) -> Iterator[SuspendedRun]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)


def pending_calls(parts: Sequence[Part]) -> tuple[PendingCall, ...]:
    """What the calls of an answer wait for, those of sub-agents included."""
    found: list[PendingCall] = []
    for part in parts:
        if not isinstance(part, ToolPart) or not is_waiting(part) or part.pause is None:
            continue
        pause = part.pause
        if pause["kind"] == "delegation":
            for inner in pause["pending"]:
                call = PendingCall.from_dict(inner)
                via = (part.tool_call_id, *call.via)
                found.append(replace(call, path=(pause["agent"], *call.path), via=via))
            continue
        found.append(
            PendingCall(
                tool_call_id=part.tool_call_id,
                tool_name=part.tool_name,
                args=part.args,
                kind=pause["kind"],
                payload=pause.get("payload"),
                resume_schema=APPROVAL_SCHEMA if pause["kind"] == "approval" else pause.get("schema"),
                digest=digest_of(part.tool_name, part.args),
            )
        )
    return tuple(found)


def suspended_run(
    run: Run, owner: str, parts: Sequence[Part], pending: tuple[PendingCall, ...]
) -> SuspendedRun:
    """A stored run that waits, with the parts of its message and what they wait for."""
    at = (run.state or {}).get("at")
    return SuspendedRun(
        run_id=run.id,
        agent=run.agent,
        resource_id=owner,
        thread_id=run.thread_id,
        pending=pending,
        unknown=tuple([part for part in parts if isinstance(part, ToolPart) and is_unknown(part)]),
        started_at=run.started_at,
        suspended_at=None if at is None else time_from_text(at),
        expires_at=run.expires_at,
    )

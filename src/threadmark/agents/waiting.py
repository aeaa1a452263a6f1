"""Telling what a run waits for."""

from __future__ import annotations

from collections.abc import Sequence

from .._types import Part
from .events import Emit, ToolApprovalEvent, ToolSuspendedEvent
from .pending import APPROVAL_SCHEMA, pending_calls


def tell_pending(run_id: str, parts: Sequence[Part], emit: Emit) -> None:
    """An event for each call of an answer that waits for a person."""
    for call in pending_calls(parts):
        if call.kind == "approval":
            emit(
                ToolApprovalEvent(
                    run_id=run_id,
                    tool_call_id=call.tool_call_id,
                    tool_name=call.tool_name,
                    args=call.args,
                    resume_schema=APPROVAL_SCHEMA,
                    digest=call.digest,
                    path=call.path,
                )
            )
        else:
            emit(
                ToolSuspendedEvent(
                    run_id=run_id,
                    tool_call_id=call.tool_call_id,
                    tool_name=call.tool_name,
                    args=call.args,
                    suspend_payload=call.payload,
                    resume_schema=call.resume_schema,
                    digest=call.digest,
                    path=call.path,
                )
            )

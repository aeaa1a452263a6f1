"""What happens during a network's run, as events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from ..._types import Json

Primitive: TypeAlias = Literal["agent", "workflow", "tool", "none"]

TERMINAL: Final = "network-execution-event-finish"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkEvent:
    """One event of a network: its `type`, whom it comes from, and a JSON `payload`.

    An iteration gives routing-agent-start and routing-agent-end; then, for what was chosen,
    agent-execution-start, agent-execution-event-<event of the agent> (any number) and agent-execution-end, or
    the same with workflow- or tool- (a tool has no events of its own), or with -error in place of -end; then
    network-validation-start, routing-agent-text-start and -delta while the answer is written (another start
    means that it is written anew), and network-validation-end. Where processors have to accept the answer
    first, it is told at the end only. What waits for a person gives agent-, workflow- or
    tool-execution-approval or -suspended. With `output` network-object (any number) and
    network-object-result follow. If the router chose nothing, network-execution-event-step-finish holds its
    answer.

    Exactly one network-execution-event-finish ends every stream. Its payload has `status` ("finished",
    "suspended", "failed" or "aborted"), `is_complete`, `completion_reason`, `result`, `iteration` and
    `usage`; of a failure `error` too, and `object` with `output`.
    """

    type: str
    run_id: str
    source: Literal["network", "agent", "workflow", "tool"] = "network"
    payload: Mapping[str, Json] = field(default_factory=dict)

    @property
    def terminal(self) -> bool:
        """Whether the stream ends with it."""
        return self.type == TERMINAL

    def to_dict(self) -> dict[str, Json]:
        """The event as a JSON object."""
        return {
            "type": self.type,
            "run_id": self.run_id,
            "source": self.source,
            "payload": dict(self.payload),
        }


Tell: TypeAlias = Callable[[str, Mapping[str, Json]], None]
"""Tells an event of the network itself: its type and payload."""

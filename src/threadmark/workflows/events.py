"""What happens during a run of a workflow, as events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from .._types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowEvent:
    """One event of a workflow's run.

    `type` is "workflow-start", for each step that is executed "workflow-step-start" and then
    "workflow-step-result", "workflow-step-error" or "workflow-step-suspended", and last "workflow-finish".
    Steps that were recorded before are not told again. `data` is JSON: of a start the `input`, of a result
    the `output`, of an error the `error`, of a suspension the `payload` and the `schema` of its answer, of a
    finish the `status`, and the `output` or `error`.
    """

    type: Literal[
        "workflow-start",
        "workflow-step-start",
        "workflow-step-result",
        "workflow-step-error",
        "workflow-step-suspended",
        "workflow-finish",
    ]
    run_id: str
    workflow: str
    step: str | None = None
    data: Mapping[str, Json] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Json]:
        """The event as a JSON object."""
        return {
            "type": self.type,
            "run_id": self.run_id,
            "workflow": self.workflow,
            "step": self.step,
            "data": dict(self.data),
        }


OnWorkflowEvent: TypeAlias = Callable[[WorkflowEvent], None]

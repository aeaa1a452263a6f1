"""Workflows: plain Python whose steps are recorded, so that it can wait for days and survive the process."""

from .context import WorkflowContext
from .definition import Workflow, WorkflowResult, workflow
from .events import WorkflowEvent
from .journal import WorkflowPause, WorkflowStep

__all__ = [
    "Workflow",
    "WorkflowContext",
    "WorkflowEvent",
    "WorkflowPause",
    "WorkflowResult",
    "WorkflowStep",
    "workflow",
]

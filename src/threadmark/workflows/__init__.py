"""Workflows: plain Python whose steps are recorded, so that it can wait for days and survive the process."""

from .context import WorkflowContext
from .events import WorkflowEvent
from .journal import WorkflowPause, WorkflowStep
from .workflow import Workflow, WorkflowResult, workflow

__all__ = [
    "Workflow",
    "WorkflowContext",
    "WorkflowEvent",
    "WorkflowPause",
    "WorkflowResult",
    "WorkflowStep",
    "workflow",
]

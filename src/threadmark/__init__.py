"""Memory for Python agents that people can trust.

    from threadmark import Agent, Memory

    memory = Memory("sqlite:///chat.db", last_messages=20)
    agent = Agent("support", model="openai:gpt-5.4-mini", memory=memory)
    result = await agent.generate("My favourite colour is blue.", resource="user-1", thread="t-1")

This is the one public door; `threadmark.testing`, `threadmark.models` and `threadmark.stores.base` are the
public side doors for tests, model backends and stores. Names are loaded when first used, so that importing
this package costs little.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._errors import (
        ApprovalError,
        ConfigurationError,
        ConflictError,
        ModelError,
        NotFoundError,
        OutputError,
        OwnershipError,
        ProcessorError,
        SchemaVersionError,
        StoreBusyError,
        StoreError,
        ThreadmarkError,
        TripwireError,
        ValidationError,
        WorkflowStepError,
    )
    from ._tracing import configure_tracing
    from ._types import (
        DataPart,
        ErasureReceipt,
        ErrorPart,
        FilePart,
        Message,
        MessagePage,
        ReasoningPart,
        Run,
        RunPage,
        Speaker,
        StepPart,
        TextPart,
        Thread,
        ThreadClone,
        ThreadPage,
        ThreadSource,
        ToolPart,
        Usage,
    )
    from .agents import (
        Agent,
        AgentResult,
        AgentStream,
        Event,
        Hooks,
        Output,
        PendingCall,
        RequestContext,
        SkipTool,
        StepChanges,
        SuspendedRun,
        SuspendedRunPage,
        Tool,
        ToolContext,
        tool,
    )
    from .memory.background import MemoryEvent
    from .memory.context import Block, ContextReport
    from .memory.memory import Memory
    from .memory.observe.extract import Extractor
    from .memory.observe.hooks import HookContext, ObservationHooks
    from .memory.observe.settings import (
        ContinuationHints,
        ModelByInputTokens,
        ObservationalMemory,
        ObservationSettings,
        ReflectionSettings,
        Retrieval,
    )
    from .memory.options import MemoryOptions
    from .memory.recall import (
        Recalled,
        RecalledObservation,
        RecallReason,
        RecallResult,
        SemanticRecall,
    )
    from .memory.recall.indexing import IndexProgress
    from .memory.thread_spec import ThreadSpec
    from .memory.titles import GenerateTitle
    from .memory.working import WorkingMemory
    from .models.base import Model
    from .stores.base import MessageChange, Observation, RecallFilter, RecallState, Store
    from .stores.postgres import PostgresStore as PostgresStore
    from .stores.sqlite import SQLiteStore
    from .workflows import Workflow, WorkflowContext, workflow

_HOMES = {
    "._errors": (
        "ApprovalError", "ConfigurationError", "ConflictError", "ModelError", "NotFoundError",
        "OutputError", "OwnershipError", "ProcessorError", "SchemaVersionError", "StoreBusyError",
        "StoreError", "ThreadmarkError", "TripwireError", "ValidationError",
        "WorkflowStepError",
    ),
    "._tracing": ("configure_tracing",),
    "._types": (
        "DataPart", "ErasureReceipt", "ErrorPart", "FilePart", "Message", "MessagePage", "ReasoningPart",
        "Run", "RunPage", "Speaker", "StepPart", "TextPart", "Thread", "ThreadClone", "ThreadPage",
        "ThreadSource", "ToolPart", "Usage",
    ),
    ".agents": (
        "Agent", "AgentResult", "AgentStream", "Event", "Hooks", "Output", "PendingCall", "RequestContext",
        "SkipTool", "StepChanges", "SuspendedRun", "SuspendedRunPage", "Tool", "ToolContext", "tool",
    ),
    ".memory.context": ("Block", "ContextReport"),
    ".models.base": ("Model",),
    ".memory.memory": ("Memory",),
    ".memory.observe.extract": ("Extractor",),
    ".memory.observe.hooks": ("HookContext", "ObservationHooks"),
    ".memory.observe.settings": (
        "ContinuationHints", "ModelByInputTokens", "ObservationSettings", "ObservationalMemory",
        "ReflectionSettings", "Retrieval",
    ),
    ".memory.options": ("MemoryOptions",),
    ".memory.background": ("MemoryEvent",),
    ".memory.titles": ("GenerateTitle",),
    ".memory.thread_spec": ("ThreadSpec",),
    ".memory.working": ("WorkingMemory",),
    ".stores.base": ("MessageChange", "Observation", "RecallFilter", "RecallState", "Store"),
    ".memory.recall": (
        "RecallReason",
        "RecallResult",
        "Recalled",
        "RecalledObservation",
        "SemanticRecall",
    ),
    ".memory.recall.indexing": ("IndexProgress",),
    ".stores.postgres": ("PostgresStore",),
    ".stores.sqlite": ("SQLiteStore",),
    ".workflows": ("Workflow", "WorkflowContext", "workflow"),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name], __name__), name)
    globals()[name] = value
    return value


# What needs an optional package is not in `__all__`: `from threadmark import *` works without it.


def __dir__() -> list[str]:
    return sorted(__all__)


__version__ = "0.1.0"

__all__ = [
    "Agent",
    "AgentResult",
    "AgentStream",
    "ApprovalError",
    "Block",
    "ConfigurationError",
    "ConflictError",
    "ContextReport",
    "ContinuationHints",
    "DataPart",
    "ErasureReceipt",
    "ErrorPart",
    "Event",
    "Extractor",
    "FilePart",
    "GenerateTitle",
    "HookContext",
    "Hooks",
    "IndexProgress",
    "Memory",
    "MemoryEvent",
    "MemoryOptions",
    "Message",
    "MessageChange",
    "MessagePage",
    "Model",
    "ModelByInputTokens",
    "ModelError",
    "NotFoundError",
    "Observation",
    "ObservationHooks",
    "ObservationSettings",
    "ObservationalMemory",
    "Output",
    "OutputError",
    "OwnershipError",
    "PendingCall",
    "ProcessorError",
    "ReasoningPart",
    "RecallFilter",
    "RecallReason",
    "RecallResult",
    "RecallState",
    "Recalled",
    "RecalledObservation",
    "ReflectionSettings",
    "RequestContext",
    "Retrieval",
    "Run",
    "RunPage",
    "SQLiteStore",
    "SchemaVersionError",
    "SemanticRecall",
    "SkipTool",
    "Speaker",
    "StepChanges",
    "StepPart",
    "Store",
    "StoreBusyError",
    "StoreError",
    "SuspendedRun",
    "SuspendedRunPage",
    "TextPart",
    "Thread",
    "ThreadClone",
    "ThreadPage",
    "ThreadSource",
    "ThreadSpec",
    "ThreadmarkError",
    "Tool",
    "ToolContext",
    "ToolPart",
    "TripwireError",
    "Usage",
    "ValidationError",
    "Workflow",
    "WorkflowContext",
    "WorkflowStepError",
    "WorkingMemory",
    "configure_tracing",
    "tool",
    "workflow",
]

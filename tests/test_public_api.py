"""The public door: which names there are, that each is explained, and that every call has a blocking twin."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import threadmark
from threadmark import Agent, Memory
from threadmark.memory.admin import Admin
from threadmark.memory.observe.handle import Observations, ThreadObservations
from threadmark.memory.resource import Resource
from threadmark.memory.threads import ThreadHandle, Threads
from threadmark.memory.working import WorkingMemoryHandle

PUBLIC = """
    Agent
    AgentResult
    AgentStream
    ApprovalError
    Block
    ConfigurationError
    ConflictError
    ContextReport
    ContinuationHints
    DataPart
    ErasureReceipt
    ErrorPart
    Event
    Extractor
    FilePart
    GenerateTitle
    HookContext
    Hooks
    IndexProgress
    Memory
    MemoryEvent
    MemoryOptions
    Message
    MessageChange
    MessagePage
    Model
    ModelByInputTokens
    ModelError
    NotFoundError
    Observation
    ObservationHooks
    ObservationSettings
    ObservationalMemory
    Output
    OutputError
    OwnershipError
    PendingCall
    ProcessorError
    ReasoningPart
    RecallFilter
    RecallReason
    RecallResult
    RecallState
    Recalled
    RecalledObservation
    ReflectionSettings
    RequestContext
    Retrieval
    Run
    RunPage
    SQLiteStore
    SchemaVersionError
    SemanticRecall
    SkipTool
    Speaker
    StepChanges
    StepPart
    Store
    StoreBusyError
    StoreError
    SuspendedRun
    SuspendedRunPage
    TextPart
    Thread
    ThreadClone
    ThreadPage
    ThreadSource
    ThreadSpec
    ThreadmarkError
    Tool
    ToolContext
    ToolPart
    TripwireError
    Usage
    ValidationError
    Workflow
    WorkflowContext
    WorkflowStepError
    WorkingMemory
    configure_tracing
    tool
    workflow
"""

CLASSES = [
    Admin,
    Agent,
    Memory,
    Observations,
    ThreadObservations,
    Resource,
    ThreadHandle,
    Threads,
    WorkingMemoryHandle,
]

# The blocking twin of closing has the name that the standard library gives it.
TWINS = {"aclose": "close"}


def test_the_names_of_the_door() -> None:
    """A name that comes or goes is a change of the public API: say so in CHANGELOG.md."""
    assert threadmark.__all__ == sorted(PUBLIC.split())
    assert dir(threadmark) == threadmark.__all__


def test_all_of_it_is_there_without_optional_packages() -> None:
    """`from threadmark import *` works with what is always installed; the rest says what to do."""
    optional = [
        "psycopg",
        "psycopg_pool",
        "pydantic_ai",
        "numpy",
        "rich",
        "typer",
        "jsonschema",
        "starlette",
        "tiktoken",
    ]
    code = f"""
import sys
for name in {optional!r}:
    sys.modules[name] = None
from threadmark import *
import threadmark
try:
    threadmark.PostgresStore
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "pip install 'threadmark[postgres]'" in done.stdout
    assert threadmark.PostgresStore.__doc__


@pytest.mark.parametrize("name", threadmark.__all__)
def test_every_name_is_there_and_explained(name: str) -> None:
    """Every name can be imported, and says what it is."""
    value = getattr(threadmark, name)
    if name == "Event":  # a union; its members are explained
        return
    assert inspect.getdoc(value)
    assert value.__doc__ != getattr(type(value), "__doc__", None)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A misspelt name fails like that of any module."""
    with pytest.raises(AttributeError, match="'Memroy'"):
        getattr(threadmark, "Memroy")  # noqa: B009 - mypy knows that it is not there


def coroutines(cls: type) -> Iterator[tuple[str, Any]]:
    for name, member in inspect.getmembers(cls, inspect.iscoroutinefunction):
        if not name.startswith("_"):
            yield name, member


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_coroutine_has_a_twin(cls: type) -> None:
    """`name_sync` takes what `name` takes, and says whose twin it is."""
    assert list(coroutines(cls))
    for name, method in coroutines(cls):
        twin = getattr(cls, TWINS.get(name, f"{name}_sync"), None)
        assert twin is not None, f"{cls.__name__}.{name} has no blocking twin"
        assert not inspect.iscoroutinefunction(twin)
        assert inspect.signature(twin) == inspect.signature(method), f"{cls.__name__}.{name}"
        assert f"`{name}`" in (twin.__doc__ or "")


def test_the_stream_has_a_twin() -> None:
    """`stream_sync` takes what `stream` takes, and gives a stream for synchronous code."""
    ours = inspect.signature(Agent.stream).parameters
    assert inspect.signature(Agent.stream_sync).parameters == ours


@pytest.mark.parametrize(
    "cls", [*CLASSES, threadmark.AgentStream, threadmark.Message], ids=lambda cls: cls.__name__
)
def test_every_public_method_is_explained(cls: type) -> None:
    """Every public method and property has a docstring."""
    for name, member in inspect.getmembers(cls):
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            assert inspect.getdoc(member), f"{cls.__name__}.{name} has no docstring"

"""Who answers: the agent, its loop, its tools and its events."""

from .agent import Agent
from .completion import Check, CheckInput, CheckResult, CompletionChecks, ModelCheck, Verdict
from .delegation import Delegation, DelegationChange, DelegationEnd, DelegationResult, DelegationStart
from .events import Event, StreamEvent, TerminalEvent, event_from_dict
from .hooks import Hooks, SkipTool, StepChanges, StepContext, StepEnd, StepVerdict, ToolEnd
from .limits import UsageLimits
from .options import CallOptions
from .output import Output
from .pending import PendingCall, SuspendedRun, SuspendedRunPage
from .request_context import RequestContext
from .result import AgentResult, Step
from .resumable import ResumeOptions
from .stream import AgentStream, SyncAgentStream
from .tools import Tool, ToolContext, tool

__all__ = [
    "Agent",
    "AgentResult",
    "AgentStream",
    "CallOptions",
    "Check",
    "CheckInput",
    "CheckResult",
    "CompletionChecks",
    "Delegation",
    "DelegationChange",
    "DelegationEnd",
    "DelegationResult",
    "DelegationStart",
    "Event",
    "Hooks",
    "ModelCheck",
    "Output",
    "PendingCall",
    "RequestContext",
    "ResumeOptions",
    "SkipTool",
    "Step",
    "StepChanges",
    "StepContext",
    "StepEnd",
    "StepVerdict",
    "StreamEvent",
    "SuspendedRun",
    "SuspendedRunPage",
    "SyncAgentStream",
    "TerminalEvent",
    "Tool",
    "ToolContext",
    "ToolEnd",
    "UsageLimits",
    "Verdict",
    "event_from_dict",
    "tool",
]

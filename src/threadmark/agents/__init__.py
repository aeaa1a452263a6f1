"""Who answers: the agent, its loop, its tools and its events."""

from .agent import Agent
from .events import Event, StreamEvent, TerminalEvent, event_from_dict
from .options import CallOptions
from .output import Output
from .request_context import RequestContext
from .result import AgentResult, Step
from .stream import AgentStream, SyncAgentStream
from .tools import Tool, ToolContext, tool

__all__ = [
    "Agent",
    "AgentResult",
    "AgentStream",
    "CallOptions",
    "Event",
    "Output",
    "RequestContext",
    "Step",
    "StreamEvent",
    "SyncAgentStream",
    "TerminalEvent",
    "Tool",
    "ToolContext",
    "event_from_dict",
    "tool",
]

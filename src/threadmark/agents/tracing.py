"""The span of a run: one for each call of an agent that makes it or goes on with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from .._tracing import NO_SPAN, Span, is_tracing, span, usage_attributes
from .._types import Json, ToolPart
from ..models.tracing import messages_json
from .result import AgentResult

if TYPE_CHECKING:
    from .tools import Tool

TRACE = "trace"
"""Where a stored run keeps the `traceparent` of the span that began it."""


async def traced_run(
    agent: str, description: str, run_id: str, work: Callable[[Span], Awaitable[AgentResult]]
) -> AgentResult:
    """What `work` gives, in the span "invoke_agent <agent>"."""
    if not is_tracing():
        return await work(NO_SPAN)
    about = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": agent,
        "gen_ai.agent.description": description or None,
        "threadmark.run.id": run_id,
    }
    with span(f"invoke_agent {agent}", about) as made:
        try:
            result = await work(made)
        except BaseException as error:
            partial: AgentResult | None = getattr(error, "result", None)
            if partial is not None:
                _tell(made, partial)
            raise
        _tell(made, result)
        return result


def _tell(made: Span, result: AgentResult) -> None:
    if not made.is_recording:
        return
    made.set(
        {
            "gen_ai.conversation.id": result.thread_id,
            "gen_ai.response.finish_reasons": [result.finish_reason],
            "threadmark.resource.id": result.resource_id,
            "threadmark.run.id": result.run_id,
            "threadmark.run.replayed": result.replayed or None,
            "threadmark.run.pending": len(result.pending) or None,
            **({} if result.replayed else usage_attributes(result.usage)),
        }
    )
    given = [message for message in result.messages if message.role == "user"]
    made.content("gen_ai.input.messages", lambda: messages_json(given))
    if result.message is not None:
        answer = result.message
        made.content("gen_ai.output.messages", lambda: messages_json([answer]))


def origin_of(record: Mapping[str, Json] | None) -> str | None:
    """The `traceparent` that a stored run was begun with."""
    found = (record or {}).get(TRACE)
    return found if isinstance(found, str) else None


def tool_span(call: ToolPart, tool: Tool | None) -> Span:
    """The span of one call of a tool; `tell_outcome` adds what came of it."""
    if not is_tracing():
        return NO_SPAN
    name = call.tool_name[:100]  # what is no tool has whatever name the model gave
    return span(
        f"execute_tool {name}",
        {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
            "gen_ai.tool.type": "function",
            "gen_ai.tool.call.id": call.tool_call_id,
            "gen_ai.tool.description": None if tool is None else tool.description or None,
        },
    )


def tell_outcome(made: Span, outcome: ToolPart) -> None:
    """Add how a call ended. Its error was added where it was caught."""
    if not made.is_recording:
        return
    made.content("gen_ai.tool.call.arguments", lambda: outcome.args)
    if outcome.state == "result":
        made.content("gen_ai.tool.call.result", lambda: outcome.output)
    elif outcome.state == "call":
        made.set({"threadmark.tool.suspended": True})


def refused(call: ToolPart, tool: Tool | None, why: str) -> None:
    """The span of a call whose tool was not run."""
    with tool_span(call, tool) as made:
        made.fail(why)
        made.content("gen_ai.tool.call.arguments", lambda: call.args)

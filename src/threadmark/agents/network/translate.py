"""The events of the agent's loop as those of a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..._types import Json
from ..events import (
    AbortEvent,
    ErrorEvent,
    Event,
    ObjectEvent,
    ObjectResultEvent,
    TerminalEvent,
    ToolApprovalEvent,
    ToolCallEvent,
    ToolDeniedEvent,
    ToolErrorEvent,
    ToolOutputEvent,
    ToolResultEvent,
    ToolSuspendedEvent,
    TripwireEvent,
)
from ..tools import tool_name
from .events import TERMINAL, NetworkEvent, Primitive
from .router import Choice, Progress


class Translator:
    """Makes network events of the loop's, as they come."""

    def __init__(self, choices: Mapping[str, Choice], progress: Progress) -> None:
        """`choices` by the names of their tools."""
        self._choices = choices
        self._progress = progress
        self._open: dict[str, Choice] = {}
        self._object: Json = None

    def feed(self, event: Event | NetworkEvent) -> Iterator[NetworkEvent]:
        """What `event` is in a network; most events of the loop are nothing there."""
        if isinstance(event, NetworkEvent):
            yield event
        elif isinstance(event, ToolCallEvent):
            choice = self._choice(event.tool_name)
            self._open[event.tool_call_id] = choice
            yield self._of(event, choice, "start")
        elif isinstance(event, ToolOutputEvent):
            output = dict(event.output)
            choice = self._open.get(event.tool_call_id) or self._choice(event.tool_name)
            yield self._of(event, choice, f"event-{output['type']}", output=output)
        elif isinstance(event, ToolResultEvent):
            choice = self._closed(event)
            yield self._of(event, choice, "end", result=event.result)
        elif isinstance(event, (ToolErrorEvent, ToolDeniedEvent)):
            choice = self._closed(event)
            kind = "denied" if isinstance(event, ToolDeniedEvent) else "error"
            yield self._of(event, choice, kind, error=event.error)
        elif isinstance(event, (ToolApprovalEvent, ToolSuspendedEvent)):
            yield self._waiting(event)
        elif isinstance(event, ObjectEvent):
            yield NetworkEvent(type="network-object", run_id=event.run_id, payload={"object": event.object})
        elif isinstance(event, ObjectResultEvent):
            self._object = event.object
            payload: dict[str, Json] = {"object": event.object, "fallback": event.fallback}
            yield NetworkEvent(type="network-object-result", run_id=event.run_id, payload=payload)

    def _closed(self, event: ToolResultEvent | ToolErrorEvent | ToolDeniedEvent) -> Choice:
        opened = self._open.pop(event.tool_call_id, None)
        return opened or self._choice(event.tool_name)

    def _choice(self, tool_name: str) -> Choice:
        found = self._choices.get(tool_name)
        return found or Choice(id=tool_name, type="tool", tool_name=tool_name, description="")

    def _of(self, event: Any, choice: Choice, what: str, **payload: Json) -> NetworkEvent:
        kind: Primitive = choice.type
        known: dict[str, Json] = {
            "primitive_id": choice.id,
            "primitive_type": kind,
            "tool_call_id": event.tool_call_id,
            "tool_name": event.tool_name,
            "iteration": self._progress.iteration,
        }
        if hasattr(event, "args"):
            known["args"] = event.args
        source: Any = kind if kind != "none" else "network"
        return NetworkEvent(
            type=f"{kind}-execution-{what}",
            run_id=event.run_id,
            source=source,
            payload={**known, **payload},
        )

    def _waiting(self, event: ToolApprovalEvent | ToolSuspendedEvent) -> NetworkEvent:
        """Of a call inside of an agent, the agent's; `tool_name` and `args` are then the inner call's."""
        outer = tool_name(event.path[0]) if event.path else event.tool_name
        choice = self._choice(outer)
        route = self._progress.route
        more: dict[str, Json] = {
            "resume_schema": event.resume_schema,
            "digest": event.digest,
            "path": list(event.path),
            "selection_reason": route.selection_reason if route else "",
        }
        if isinstance(event, ToolSuspendedEvent):
            more["suspend_payload"] = event.suspend_payload
            return self._of(event, choice, "suspended", **more)
        return self._of(event, choice, "approval", **more)

    def end(self, event: TerminalEvent, known: Mapping[str, Json]) -> Iterator[NetworkEvent]:
        """The last events of the network. `known` is what its result says."""
        progress, open_ = self._progress, list(self._open.items())
        if isinstance(event, AbortEvent):
            if not open_:
                yield NetworkEvent(type="routing-agent-abort", run_id=event.run_id)
            for id_, choice in open_:
                payload: dict[str, Json] = {
                    "primitive_id": choice.id,
                    "primitive_type": choice.type,
                    "tool_call_id": id_,
                }
                yield NetworkEvent(
                    type=f"{choice.type}-execution-abort", run_id=event.run_id, payload=payload
                )
        if progress.is_held and known["status"] == "finished":
            yield from self._held_answer(event.run_id, known)
        payload = {"iteration": progress.iteration, **known, "usage": event.usage.to_dict()}
        if progress.route is not None:
            payload["primitive_id"] = progress.route.primitive_id
            payload["primitive_type"] = progress.route.primitive_type
        if isinstance(event, ErrorEvent):
            payload["error"] = {"name": event.name, "message": event.message}
        if isinstance(event, TripwireEvent):
            payload["error"] = {"name": "tripwire", "message": event.reason}
        if self._object is not None:
            payload["object"] = self._object
        yield NetworkEvent(type=TERMINAL, run_id=event.run_id, payload=payload)

    def _held_answer(self, run_id: str, known: Mapping[str, Json]) -> Iterator[NetworkEvent]:
        """The answer that processors had to accept first."""
        result, route = known["result"], self._progress.route
        if route is not None and route.is_none:
            told = {"result": result, "is_complete": True, "completion_reason": route.selection_reason}
            yield NetworkEvent(
                type="network-execution-event-step-finish",
                run_id=run_id,
                payload={"iteration": self._progress.iteration, **route.to_json(), "prompt": result, **told},
            )
        elif result:
            yield NetworkEvent(type="routing-agent-text-start", run_id=run_id)
            yield NetworkEvent(type="routing-agent-text-delta", run_id=run_id, payload={"text": result})

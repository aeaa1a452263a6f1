"""A user's next message as the answer to a suspended call: asked of the model, before the turn begins.

The model sees the conversation with the new message, and for each suspended call a tool to answer it.
If it calls one with an answer that fits, that run goes on. Otherwise the turn is like any other. An
approval is never given this way.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._codec import to_json
from .._errors import ConfigurationError, ConflictError, ModelError, NotFoundError, ValidationError
from .._types import Json, ToolPart, Usage
from ..memory.context.render import escape
from ..models.base import Model, ModelRequest, ToolDefinition
from ..models.tracing import chat
from .deciding import Decision, decide
from .events import Emit
from .options import Call, TurnSource
from .pending import PendingCall, pending_calls
from .records import is_network
from .result import AgentResult
from .state import RunState

if TYPE_CHECKING:
    from .agent import Agent

log = logging.getLogger("threadmark.agents")

ASK = """Earlier in this conversation tools asked the user questions, and wait for the answers. If the user's
last message answers one of them, call the tool that takes its answer, with exactly what the user said. If it
does not, or leaves out what is needed, call no tool. The questions:
<questions>
{}
</questions>"""


@dataclass(frozen=True, slots=True)
class Question:
    """A suspended call, and the run that waits for it."""

    run_id: str
    call: PendingCall


async def find_questions(agent: Agent, memory: TurnSource, call: Call) -> list[Question]:
    """The suspended calls of the thread that this call may answer."""
    if call.thread is None or call.resource is None:
        return []
    runs = await memory.open_runs.page(call.resource, agent.name, "suspended", thread_id=call.thread.id)
    alive = [
        run for run in runs if not memory.open_runs.has_lapsed(run) and is_network(run) is agent.is_network
    ]
    asked = await memory.open_runs.parts(call.resource, alive)
    return [
        Question(run_id, pending)
        for run_id, parts in asked.items()
        for pending in pending_calls(parts)
        if pending.kind == "suspension"
    ]


async def extract(
    state: RunState, questions: Sequence[Question], model: Model
) -> tuple[Question, Json] | None:
    """Ask `model` which question the input answers, and how. `None`: none of them."""
    listed = "\n".join(
        f"answer_{number}: {escape(_described(question.call))}"
        for number, question in enumerate(questions, 1)
    )
    request = ModelRequest(
        messages=state.conversation(),
        instructions="\n\n".join(text for text in (state.prompt.instructions, ASK.format(listed)) if text),
        tools=[_tool(number, question.call) for number, question in enumerate(questions, 1)],
        settings=state.plan.settings,
    )
    try:
        with chat(model, request, role="auto-resume") as asked:
            response = asked.answered(await model.request(request))
    except ModelError as error:
        log.warning("could not ask whether a message answers a suspended call: %s", type(error).__name__)
        return None
    state.usage += response.usage if response.usage.requests else response.usage + Usage(requests=1)
    for part in response.parts:
        if isinstance(part, ToolPart) and isinstance(part.args, dict) and "data" in part.args:
            for number, question in enumerate(questions, 1):
                if part.tool_name == f"answer_{number}":
                    return question, part.args["data"]
    return None


async def answer(
    agent: Agent, state: RunState, question: Question, data: Json, emit: Emit | None
) -> AgentResult | None:
    """Go on with the run that asked. `None`, and nothing has happened, if the answer cannot be taken."""
    turn = state.turn
    assert turn is not None
    options = {"resource": turn.resource_id, "request_context": state.plan.request_context}
    decision = Decision(kind="answer", targets=(question.call,), data=data)
    said = tuple(state.input)
    try:
        return await decide(agent, question.run_id, decision, options, emit, said=said, usage=state.usage)
    except (ConfigurationError, ConflictError, NotFoundError, ValidationError) as error:
        if getattr(error, "result", None) is not None:
            raise  # the answer was taken, and what came then failed
        log.info("an answer to a suspended call was not taken: %s", type(error).__name__)
        return None


def _described(call: PendingCall) -> str:
    asked = "" if call.payload is None else f" asked {to_json(call.payload)}"
    return f"{call.tool_name}, called with {to_json(call.args)},{asked or ' waits for an answer'}"


def _tool(number: int, call: PendingCall) -> ToolDefinition:
    schema: dict[str, Any] = dict(call.resume_schema or {})
    definitions = schema.pop("$defs", None)
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": {"data": schema},
        "required": ["data"],
    }
    if definitions is not None:
        parameters["$defs"] = definitions
    return ToolDefinition(
        name=f"answer_{number}",
        description=f"Takes the user's answer to question answer_{number}, for {call.tool_name}.",
        parameters=parameters,
    )

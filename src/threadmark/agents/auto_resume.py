"""A user's next message as the answer to suspended calls: asked of the model, before the turn begins.

The model sees the conversation with the new message, and for each suspended call a tool to answer it. What it
answers is stored with the run that asked, if it fits. With the last answer that run goes on, and the message
is a part of it. If others of its calls still wait, or nothing was answered, the turn is like any other: the
model sees what waits, and can ask for it. An approval is never given this way.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._codec import to_json
from .._errors import ConfigurationError, ConflictError, ModelError, NotFoundError, ValidationError
from .._types import Json, Message, ToolPart, Usage
from ..memory.context.render import escape
from ..models.base import Model, ModelRequest, ToolDefinition
from ..models.tracing import chat
from .deciding import Decision, decide
from .events import Emit
from .opening import make_prompt
from .options import Call, TurnSource
from .pending import PendingCall, pending_calls
from .records import is_network
from .result import AgentResult
from .settle import settle
from .state import RunState

if TYPE_CHECKING:
    from .agent import Agent

log = logging.getLogger("threadmark.agents")

ASK = """Earlier in this conversation tools asked the user questions, and wait for the answers. For each
question that the user's last message answers, call the tool that takes its answer, with exactly what the user
said. If it answers none, or leaves out what is needed, call no tool. The questions:
<questions>
{}
</questions>"""


@dataclass(frozen=True, slots=True)
class Question:
    """A suspended call, and the run that waits for it."""

    run_id: str
    call: PendingCall
    waiting: int
    """How many calls that run waits for."""


async def find_questions(agent: Agent, memory: TurnSource, call: Call) -> list[Question]:
    """The suspended calls of the thread that this call may answer."""
    if call.thread is None or call.resource is None:
        return []
    runs = await memory.open_runs.page(call.resource, agent.name, "suspended", thread_id=call.thread.id)
    alive = [
        run for run in runs if not memory.open_runs.has_lapsed(run) and is_network(run) is agent.is_network
    ]
    asked = await memory.open_runs.parts(call.resource, alive)
    waiting = {run_id: pending_calls(parts) for run_id, parts in asked.items()}
    return [
        Question(run_id, pending, len(calls))
        for run_id, calls in waiting.items()
        for pending in calls
        if pending.kind == "suspension"
    ]


async def hand_over(
    agent: Agent, questions: Sequence[Question], emit: Emit | None, state: RunState
) -> AgentResult | None:
    """The result of the run that the input answers, or `None`: then the turn is like any other."""
    turn = state.turn
    assert turn is not None
    if state.plan.claim:
        await settle(turn.claim())
    answers = await extract(state, questions, agent._beneath(state.plan.model))
    if not answers:
        return None
    run_id, asked = answers[0][0].run_id, answers[0][0].waiting
    answers = [answer for answer in answers if answer[0].run_id == run_id]
    try:
        for number, (question, data) in enumerate(answers, 1):
            last = number == asked  # and with it the run goes on
            said = tuple(state.input) if last else ()
            result = await _answer(agent, state, question, data, emit if last else None, said)
            if result is not None and last:
                await _handed(state, run_id)
                return result
            if result is not None and result.message is not None:
                turn.show_again(result.message)
    except BaseException as error:
        if getattr(error, "result", None) is not None:  # the answer was taken, and what came then failed
            await _handed(state, run_id)
        raise
    make_prompt(state)
    return None


async def _handed(state: RunState, run_id: str) -> None:
    """Have a repetition of this call give the answer of the run that went on instead."""
    if state.plan.claim and state.turn is not None:
        await settle(state.turn.hand_over(run_id))


async def extract(
    state: RunState, questions: Sequence[Question], model: Model
) -> list[tuple[Question, Json]]:
    """Ask `model` which questions the input answers, and how."""
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
        return []
    state.spend(response.usage if response.usage.requests else response.usage + Usage(requests=1))
    given = {
        part.tool_name: part.args["data"]
        for part in reversed(response.parts)
        if isinstance(part, ToolPart) and isinstance(part.args, dict) and "data" in part.args
    }
    tools = {f"answer_{number}": question for number, question in enumerate(questions, 1)}
    return [(question, given[name]) for name, question in tools.items() if name in given]


async def _answer(
    agent: Agent,
    state: RunState,
    question: Question,
    data: Json,
    emit: Emit | None,
    said: Sequence[Message],
) -> AgentResult | None:
    """Give one answer to the run that asked. `None`, and nothing has happened, if it cannot be taken."""
    turn = state.turn
    assert turn is not None
    options = {"resource": turn.resource_id, "request_context": state.plan.request_context}
    decision = Decision(kind="answer", targets=(question.call,), data=data)
    usage = state.usage if said else None  # otherwise the turn that follows has it
    try:
        return await decide(agent, question.run_id, decision, options, emit, said=said, usage=usage)
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

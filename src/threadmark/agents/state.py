"""The state of a run: its plan, its turn, and what it has produced so far."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .._ids import new_id
from .._types import FinishReason, Json, Message, Part, StepPart, ToolPart, Usage
from ..memory import context as memory_context
from ..memory.context.render import escape, interrupted, model_facing
from ..memory.runs import is_waiting
from ..memory.turn import Turn
from ..models.base import ModelResponse
from ..processors.base import FEEDBACK_ID, Tripwire
from .calls import sound
from .events import Emit, ToolDeniedEvent, ToolErrorEvent, ToolResultEvent
from .limits import SPENT
from .plan import Plan
from .result import AgentResult
from .streaming import StreamedAnswer

RESUMED_ID = "resumed"
GUIDANCE_ID = "guidance"

if TYPE_CHECKING:
    from .completion import Verdict

GO_ON = """<resumed>
The calls that waited for a person have their outcomes; they stand in the conversation above. Go on from there
with your answer to what they were made for.
</resumed>"""

GUIDANCE = """Your answer so far stands. Go on with it as the element below says; it is feedback on your work,
not a message of the user.
<feedback>
{}
</feedback>"""

FEEDBACK = """Your last answer was not accepted and not shown. The reasons stand in the element below; it is
feedback, not a message of the user. Answer the conversation again so that they no longer hold.
<feedback>
{}
</feedback>"""


class RunState:
    """One run in progress. `turn` is `None` without memory, `emit` when nobody listens."""

    __slots__ = (
        "accepted",
        "answer",
        "bail",
        "base",
        "begun",
        "earlier",
        "emit",
        "feedback",
        "guards",
        "guidance",
        "handed",
        "heartbeat",
        "hold",
        "input",
        "instructions",
        "judged",
        "live",
        "message_id",
        "metadata",
        "model",
        "offered",
        "output",
        "parts",
        "plan",
        "prompt",
        "reason",
        "record",
        "report",
        "resumed",
        "seen",
        "settings",
        "shrunk",
        "step",
        "stop",
        "told",
        "tools",
        "tripwire",
        "turn",
        "usage",
        "verdict",
    )

    def __init__(self, plan: Plan, turn: Turn | None, emit: Emit | None) -> None:
        self.plan = plan
        self.turn = turn
        self.emit = emit
        self.guards = plan.guards
        self.hold = "none" if plan.guards is None else plan.guards.hold
        self.live = None if self.hold == "run" else emit  # where events go as they happen
        self.accepted = False  # the input, by processors
        self.bail: str | None = None  # a sub-agent's text that ends the run
        self.base: list[Part] = []  # what a resumed answer was when it was claimed
        self.earlier: tuple[Message, ...] = ()  # messages of this run before the one that goes on
        self.guidance: str | None = None  # of a hook, for the next step
        self.handed: AgentResult | None = None  # of another run, that went on instead
        self.heartbeat: asyncio.Task[None] | None = None
        self.record: Mapping[str, Json] = plan.record
        self.resumed = False
        self.begun = False
        self.output = plan.output
        self.judged = self.hold != "run"
        self.input = plan.input
        self.prompt = memory_context.Prompt(
            instructions="", messages=(), report=memory_context.ContextReport()
        )
        self.report = self.prompt.report
        self.told = 0  # steps of an answer that was held back
        self.model = plan.model  # of this step, like the four below
        self.tools = self.offered = plan.tools
        self.instructions = ""
        self.settings = plan.settings
        self.seen: Sequence[Message] = ()  # by the model, in this step
        self.feedback: list[str] = []
        self.message_id = new_id()
        self.metadata: Mapping[str, Json] = {}
        self.parts: list[Part] = []
        self.answer: StreamedAnswer | None = None  # of the model call under way
        self.usage = Usage()
        self.verdict: Verdict | None = None  # of checks, on the newest answer
        self.shrunk = False  # the prompt, after the provider refused it as too long
        self.step = 0
        self.stop: asyncio.CancelledError | None = None  # came while the run was claimed
        self.reason: FinishReason = "stop"
        self.tripwire: Tripwire | None = None

    def spend(self, usage: Usage) -> None:
        """Count the usage of a model call of this run."""
        self.usage = usage if self.usage.requests == 0 else self.usage + usage
        if self.plan.spending is not None:
            self.plan.spending.add(usage)

    def stored_record(self, **more: Json) -> Mapping[str, Json]:
        """What is stored with the run, from here on, with `more` of where it stands."""
        record = {**self.record, **more}
        if self.plan.spending is not None:
            record[SPENT] = self.plan.spending.to_dict()
        if self.bail is not None:
            record["bail"] = self.bail
        self.record = record
        return record

    def message(self) -> Message:
        """The answer as far as it is."""
        return Message(
            role="assistant",
            parts=self.parts,
            id=self.message_id,
            run_id=self.plan.run_id,
            metadata=self.metadata,
        )

    def conversation(self) -> tuple[Message, ...]:
        """What the model is sent: the prompt, and the answer so far."""
        messages = self.prompt.messages
        if self.parts:
            messages = (*messages, model_facing(self.message()))
        if self.earlier and not self.parts and messages and messages[-1].role == "assistant":
            messages = (*messages, Message.user(GO_ON, id=RESUMED_ID))
        if self.guidance is not None:
            messages = (*messages, Message.user(GUIDANCE.format(escape(self.guidance)), id=GUIDANCE_ID))
        if self.feedback:
            text = FEEDBACK.format("\n".join([escape(reason) for reason in self.feedback]))
            messages = (*messages, Message.user(text, id=FEEDBACK_ID))
        return messages

    def is_open(self, index: int) -> bool:
        """Whether part number `index` is a call that waits for its outcome."""
        part = self.parts[index]
        return isinstance(part, ToolPart) and part.state == "call" and not part.provider_executed

    def add(self, response: ModelResponse) -> int:
        """Add a response to the answer. Returns the index of its first part."""
        self.answer = None
        self.parts.append(response.step_part())
        first = len(self.parts)
        calls: set[str] = set()
        for part in response.parts:
            if isinstance(part, ToolPart):
                part = sound(part)
                while part.tool_call_id in calls and not part.provider_executed:
                    # A decision names a call by its id, so no two of a step may have the same.
                    part = replace(part, tool_call_id=new_id())
                calls.add(part.tool_call_id)
            self.parts.append(part)
        return first

    def close(self) -> None:
        """Keep what an unfinished model call had said, and close open calls."""
        if self.answer is not None:
            if partial := self.answer.partial():
                self.parts += [StepPart(model=self.model.name), *partial]
            self.answer = None
        for index in range(len(self.parts)):
            if self.is_open(index):
                part = self.parts[index]
                assert isinstance(part, ToolPart)
                self.parts[index] = closed = interrupted(part)
                self.tell(closed)

    @property
    def is_paused(self) -> bool:
        """Whether a call of the answer waits for a person."""
        return any(map(is_waiting, self.parts))

    def tell_now(self, outcome: ToolPart) -> None:
        """Tell how a call ended even while the answer is held back: a person decided it."""
        held, self.live = self.live, self.emit
        self.tell(outcome)
        self.live = held

    def tell(self, outcome: ToolPart) -> None:
        """Tell how a call ended."""
        if self.live is None:
            return
        common: dict[str, Any] = {
            "run_id": self.plan.run_id,
            "tool_call_id": outcome.tool_call_id,
            "tool_name": outcome.tool_name,
            "args": outcome.args,
        }
        if outcome.state == "result":
            self.live(ToolResultEvent(**common, result=outcome.output))
        elif outcome.state == "denied":
            self.live(ToolDeniedEvent(**common, error=outcome.error or outcome.state))
        else:
            self.live(ToolErrorEvent(**common, error=outcome.error or outcome.state))

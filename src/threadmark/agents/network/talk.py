"""What a router sees of a conversation, and of what its network has done about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..._codec import to_json
from ..._types import Json, Message, StepPart, ToolPart
from ...memory.context.render import attribute, escape
from ...models.base import ModelRequest
from ...processors.base import FEEDBACK_ID
from ..state import GUIDANCE_ID, RESUMED_ID, RunState

_NOT_SAID: Final = (RESUMED_ID, GUIDANCE_ID, FEEDBACK_ID)


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation, and what the network has done about its last question."""

    before: tuple[Message, ...]
    task: str
    results: tuple[ToolPart, ...]
    asks: tuple[str, ...] = ()
    """What processors and hooks have to say about the answer so far."""
    is_last: bool = True
    """Whether nobody said anything after the task."""

    @classmethod
    def of(cls, request: ModelRequest, state: RunState) -> Talk:
        """Of a request of the run `state`. What it has done is in the run's own messages."""
        own = [*state.earlier, state.message()]
        ids = {message.id for message in own}
        first = next((n for n, message in enumerate(request.messages) if message.id in ids), None)
        # What earlier turns did is bookkeeping; what they said is the conversation.
        kept = (
            message
            if message.role == "user"
            else message.replace(parts=[p for p in message.parts if not isinstance(p, (ToolPart, StepPart))])
            for message in request.messages
            if message.id not in ids and message.id not in _NOT_SAID
        )
        asked = [m for m in state.input if m.role == "user"] or [
            m for m in request.messages[:first] if m.role == "user" and m.id not in _NOT_SAID
        ]
        before = tuple([message for message in kept if message.parts])
        said = [message for message in before if message.role == "user"]
        task = asked[-1] if asked else said[-1] if said else None
        return cls(
            before,
            "" if task is None else task.text,
            tuple([part for message in own for part in message.parts if isinstance(part, ToolPart)]),
            (*([] if state.guidance is None else [state.guidance]), *state.feedback),
            task is None or not before or before[-1].id == task.id,
        )

    @property
    def iterations(self) -> int:
        return len(self.results)

    @property
    def has_failed(self) -> bool:
        """Whether nothing of what was chosen has an outcome; a call that a person declined has one."""
        return all(part.state not in ("result", "denied") for part in self.results)

    @property
    def last(self) -> str | None:
        """What came of the last choice that succeeded, as text."""
        done = [part for part in self.results if part.state == "result"]
        return _outcome(done[-1]) if done else None

    def messages(self, feedback: str) -> list[Message]:
        """The conversation with what was done so far, as data."""
        told = list(self.before)
        if self.results:
            lines = [
                f'<done number="{number}" by="{attribute(part.tool_name)}" outcome="{part.state}">\n'
                f"<input>{escape(_text(part.args))}</input>\n"
                f"<result>{escape(_outcome(part))}</result>\n</done>"
                for number, part in enumerate(self.results, 1)
            ]
            told.append(Message.user("\n".join(["What was done so far:", *lines])))
        if not self.is_last:
            told.append(Message.user(f"The task is still:\n<task>\n{escape(self.task)}\n</task>"))
        if feedback:
            told.append(Message.user(f"It is not done yet: {escape(feedback)}"))
        told += [Message.user(f"The answer is not accepted yet: {escape(reason)}") for reason in self.asks]
        return told


def _outcome(part: ToolPart) -> str:
    if part.state != "result":
        return part.error or part.state
    output = part.output
    if isinstance(output, Mapping) and isinstance(output.get("text"), str):
        return str(output["text"])
    return _text(output)


def _text(value: Json) -> str:
    return value if isinstance(value, str) else to_json(value)

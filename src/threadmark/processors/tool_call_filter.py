"""Leaves tool calls of past turns out of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .._errors import ConfigurationError
from .._types import Message, Part, ReasoningPart, StepPart, TextPart, ToolPart
from ..models.base import ModelRequest
from .base import Processor, ProcessorContext


class ToolCallFilter(Processor):
    """Sends past messages without their tool calls and outcomes: all of them, or those named in `exclude`.

    The current turn stays whole, and so does what is stored. With a call goes the thinking of its step,
    which providers accept only together with it. A message of which nothing is left is not sent.
    """

    def __init__(self, *, exclude: Sequence[str] | None = None) -> None:
        if isinstance(exclude, str):
            raise ConfigurationError(f"exclude must be a sequence of tool names; write [{exclude!r}]")
        self.exclude = None if exclude is None else frozenset(exclude)

    async def process_input_step(self, request: ModelRequest, ctx: ProcessorContext) -> ModelRequest | None:
        first = ctx.current(request.messages)
        messages = [
            kept
            for index, message in enumerate(request.messages)
            if (kept := message if index >= first else self._without_calls(message)) is not None
        ]
        return None if messages == list(request.messages) else replace(request, messages=messages)

    def _without_calls(self, message: Message) -> Message | None:
        steps: list[list[Part]] = [[]]
        for part in message.parts:
            if isinstance(part, StepPart):
                steps.append([])
            steps[-1].append(part)
        kept: list[Part] = []
        for step in steps:
            if any(self._is_excluded(part) for part in step):
                step = [
                    # What the provider attached to the step names the calls that are gone.
                    replace(part, provider=None) if isinstance(part, StepPart) else part
                    for part in step
                    if not isinstance(part, ReasoningPart) and not self._is_excluded(part)
                ]
            kept += step
        if len(kept) == len(message.parts):
            return message
        has_content = any(
            part.text if isinstance(part, TextPart) else part.type in ("tool", "file") for part in kept
        )
        return message.replace(parts=kept) if has_content else None

    def _is_excluded(self, part: Part) -> bool:
        return isinstance(part, ToolPart) and (self.exclude is None or part.tool_name in self.exclude)

"""Asking a network's model for an object, besides the run's own answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

from ..._errors import ModelError
from ..._types import Json, Message, Usage
from ...memory.context.render import escape
from ...models.base import Model, ModelRequest, ModelResponse, ResponseEnded
from ...models.tracing import chat
from ..output import InvalidObjectError, Output, StreamedPartials, answer_text, without_answer_call

TRIES: Final = 3
"""How often the router's own answers are asked for, before an unusable one ends the run."""


@dataclass(slots=True)
class Spent:
    """What the requests of one step have used so far."""

    usage: Usage = field(default_factory=Usage)

    def add(self, usage: Usage) -> None:
        """One more request."""
        self.usage += usage if usage.requests else usage + Usage(requests=1)

    def since(self, before: Usage) -> Usage:
        """What was used after `before`."""
        now, then = self.usage.to_dict(), before.to_dict()
        return Usage(**{name: now[name] - then[name] for name in now})


async def ask_object(
    model: Model,
    output: Output,
    messages: Sequence[Message],
    instructions: str,
    settings: Mapping[str, Json],
    spent: Spent,
    partial: Callable[[Json], None] | None = None,
    check: Callable[[Any], str | None] | None = None,
    role: str = "router",
) -> Any:
    """An object of `model`, asked for again while it does not fit. Raises `ModelError` if none does.

    `check` says what is wrong with one that fits the schema.
    """
    mode, problem = output.mode_for(model), ""
    for _ in range(TRIES):
        told = [*messages]
        if problem:
            told.append(Message.user(f"Your last answer did not fit: {escape(problem)}. Answer again."))
        asked = output.ask(ModelRequest(messages=told, instructions=instructions, settings=settings), mode)
        response = await _whole(model, asked, output, partial, role)
        spent.add(response.usage)
        try:
            made = output.read(answer_text(without_answer_call(response.parts)))[0]
        except InvalidObjectError as error:
            problem = str(error)
            continue
        problem = (check(made) if check is not None else None) or ""
        if not problem:
            return made
    raise ModelError(f"{model.name} gave no usable {output.sent.name!r} in {TRIES} tries: {problem}")


async def _whole(
    model: Model,
    request: ModelRequest,
    output: Output,
    partial: Callable[[Json], None] | None,
    role: str,
) -> ModelResponse:
    with chat(model, request, stream=partial is not None, role=role) as asked:
        if partial is None:
            return asked.answered(await model.request(request))
        seen = StreamedPartials(output)
        async with aclosing(model.stream(request)) as events:
            async for event in events:
                if isinstance(event, ResponseEnded):
                    return asked.answered(event.response)
                if (value := seen.take(event)) is not None:
                    partial(value)
    raise ModelError(f"{model.name}'s stream ended without a response")

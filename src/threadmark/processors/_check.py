"""Asking a model for a verdict on a text, and reading it however it is wrapped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from .._errors import ConfigurationError
from .._types import Json, Message, TextPart
from ..memory.context.render import escape
from ..models.base import Model, ModelRequest
from ..models.tracing import chat
from .base import OnViolation, Processor, ProcessorContext

if TYPE_CHECKING:
    from ..models import ModelLike

Action: TypeAlias = Literal["block", "warn"]
OnFailure: TypeAlias = Literal["fail_closed", "fail_open"]


class ModelCheck(Processor):
    """Asks a model for a verdict. The tokens it uses are not part of the run's usage.

    Args:
        model: `"provider:model"`, a `Model`, or a model object of Pydantic AI; a small one will do.
        threshold: A score from this on counts, from 0 to 1.
        action: "block" stops the run; "warn" logs, calls `on_violation`, and lets it go on.
        on_failure: When the model fails or gives no usable verdict: "fail_closed" stops the run, "fail_open"
            logs, calls `on_violation`, and lets it go on.
        settings: For the model.
    """

    instructions = ""

    def __init__(
        self,
        model: ModelLike,
        *,
        threshold: float = 0.5,
        action: Action = "block",
        on_failure: OnFailure = "fail_closed",
        settings: Mapping[str, Json] | None = None,
        on_violation: OnViolation | None = None,
    ) -> None:
        if action not in ("block", "warn"):
            raise ConfigurationError(f"action must be 'block' or 'warn', not {action!r}")
        if on_failure not in ("fail_closed", "fail_open"):
            raise ConfigurationError(f"on_failure must be 'fail_closed' or 'fail_open', not {on_failure!r}")
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 < threshold <= 1:
            raise ConfigurationError(f"threshold must be more than 0 and at most 1, not {threshold!r}")
        if isinstance(model, Model):
            self._model = model
        else:
            from ..models import infer_model

            self._model = infer_model(model)
        self.threshold = threshold
        self.action = action
        self.on_failure = on_failure
        self.settings = settings or {}
        self.on_violation = on_violation

    async def ask(self, what: str, text: str, ctx: ProcessorContext) -> list[dict[str, Any]]:
        """The JSON objects of the model's answer; none if it failed and that is to be ignored."""
        if not text.strip():
            return []
        request = ModelRequest(
            messages=[Message.user(f"<{what}>\n{escape(text)}\n</{what}>\n\nGive your verdict as JSON.")],
            instructions=self.instructions,
            settings=self.settings,
        )
        try:
            with chat(self._model, request, role=self.name) as asked:
                response = asked.answered(await self._model.request(request))
        except Exception as error:
            self.unusable(ctx, f"the model failed: {type(error).__name__}")
            return []
        answer = "".join(part.text for part in response.parts if isinstance(part, TextPart))
        verdicts = list(objects(answer))
        if not verdicts:
            self.unusable(ctx, "the model gave no JSON")
        return verdicts

    def unusable(self, ctx: ProcessorContext, why: str) -> None:
        reason, metadata = f"{self.name} has no usable verdict", {"failure": why}
        if self.on_failure == "fail_closed":
            ctx.abort(reason, metadata=metadata)
        ctx.report(reason, metadata=metadata)

    def flag(
        self, ctx: ProcessorContext, reason: str, metadata: Mapping[str, Json], *, retry: bool = False
    ) -> None:
        if self.action == "block":
            ctx.abort(reason, retry=retry, metadata=metadata)
        ctx.report(reason, metadata=metadata)

    def score(self, value: object) -> float | None:
        """A score from 0 to 1 out of what a model wrote for one; `None` if it is none."""
        if isinstance(value, bool):
            return float(value)
        if isinstance(value, str):
            if value.strip().casefold() in ("true", "false"):
                return float(value.strip().casefold() == "true")
            try:
                value = float(value)
            except ValueError:
                return None
        return float(value) if isinstance(value, (int, float)) and 0 <= value <= 1 else None


def objects(text: str) -> Iterator[dict[str, Any]]:
    """The outermost JSON objects in `text`, whatever stands around them."""
    decoder = json.JSONDecoder()
    at = text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            yield value
        at = text.find("{", end)


def texts_of(messages: Any) -> str:
    """The text that users wrote in `messages`."""
    return "\n\n".join(message.text for message in messages if message.text)

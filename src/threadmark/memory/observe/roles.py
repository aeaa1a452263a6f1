"""The model behind a role: which one, how it is asked, and what it used."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..._errors import ConfigurationError, ModelError
from ..._types import FilePart, Json, Message, Part, TextPart, Usage
from ..tokens import estimate_tokens
from ._types import ObservingError
from .hooks import HookContext, ObservationHooks, Role
from .settings import ModelByInputTokens

if TYPE_CHECKING:
    from ...models import Model
    from ...models.base import ModelResponse
    from .settings import ModelChoice

log = logging.getLogger("threadmark")

_T = TypeVar("_T")

_REFUSES_FILES = (400, 404, 413, 415, 422)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A model's answer: its text, and whether it was cut off."""

    text: str
    truncated: bool
    filtered: bool


@dataclass(slots=True, kw_only=True)
class Asker:
    """Asks one role's model in the course of one job, and sums up what it used.

    `model=None` is `fallback`, the agent's own; without either, asking raises `ConfigurationError`.
    """

    role: Role
    model: ModelChoice | None
    fallback: Model | None
    settings: Mapping[str, Json]
    job_id: str
    usage: Usage = field(default_factory=Usage)
    name: str | None = None

    async def ask(self, instructions: str, text: str, files: Sequence[FilePart] = ()) -> Reply:
        """The model's answer to `text`. A model that refuses the files is asked without them."""
        from ...models.base import ModelRequest
        from ...models.tracing import chat

        tokens = estimate_tokens(instructions) + estimate_tokens(text)
        model = self._choose(tokens)
        self.name = model.name

        def request(parts: Sequence[Part]) -> ModelRequest:
            return ModelRequest(
                messages=[Message(role="user", parts=parts)],
                instructions=instructions,
                settings=dict(self.settings),
            )

        async def asked(parts: Sequence[Part]) -> ModelResponse:
            wanted = request(parts)
            with chat(model, wanted, role=self.role, job_id=self.job_id) as made:
                return made.answered(await model.request(wanted))

        try:
            response = await asked([TextPart(text), *files])
        except ModelError as error:
            if not files or error.status not in _REFUSES_FILES:
                raise
            response = await asked([TextPart(text)])
        self.usage += response.usage
        return Reply(
            text="".join(part.text for part in response.parts if isinstance(part, TextPart)),
            truncated=response.finish_reason == "length",
            filtered=response.finish_reason == "content-filter",
        )

    def failure(self, message: str, reason: str) -> ObservingError:
        """An error that carries what was used so far."""
        return ObservingError(message, reason=reason, usage=self.usage)

    def _choose(self, tokens: int) -> Model:
        choice: Any = self.model
        if isinstance(choice, ModelByInputTokens):
            choice = choice.choose(tokens)
        if choice is None:
            if self.fallback is None:
                raise ConfigurationError(
                    "observational memory needs a model: give ObservationalMemory(model=...), or run it with "
                    "an agent whose model it can use"
                )
            return self.fallback
        from ...models import infer_model

        return infer_model(choice)


def takes_files(model: ModelChoice | Model | None) -> bool:
    """Whether `model` is known to take images and PDF."""
    if isinstance(model, ModelByInputTokens):
        return all(takes_files(choice) for choice in model.up_to.values())
    name = model if isinstance(model, str) else getattr(model, "name", None)
    if not isinstance(name, str):
        return False
    provider = name.replace("/", ":", 1).partition(":")[0]
    return provider.startswith(("anthropic", "google", "openai"))


async def transform(
    hook: Callable[[_T], _T | Awaitable[_T]] | None, value: _T, name: str, asker: Asker
) -> _T:
    """What a hook makes of `value`. A hook that raises fails the job."""
    if hook is None:
        return value
    try:
        made = hook(value)
        return await made if inspect.isawaitable(made) else made
    except Exception as error:
        raise asker.failure(f"the hook {name} raised {type(error).__name__}", "failed") from error


async def tell(hooks: ObservationHooks, when: Literal["start", "end"], context: HookContext) -> None:
    """Call the hook for the beginning or the end of a job. What it raises is logged."""
    work = "observation" if context.role == "observer" else "reflection"
    hook = getattr(hooks, f"on_{work}_{when}")
    if hook is None:
        return
    try:
        made = hook(context)
        if inspect.isawaitable(made):
            await made
    except Exception:
        log.exception("the hook on_%s_%s failed in thread %r", work, when, context.thread_id)

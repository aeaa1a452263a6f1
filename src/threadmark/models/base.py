"""What an agent needs of a language model: one request at a time, whole or streamed.

A backend implements `Model`. It gets Threadmark's own messages and answers with Threadmark's own parts, so
no agent code depends on any provider's library.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from .._types import FilePart, Json, Message, ReasoningPart, StepPart, TextPart, ToolPart, Usage

ResponsePart: TypeAlias = TextPart | ReasoningPart | FilePart | ToolPart
"""What a model can answer with. Its tool calls are `ToolPart`s in state "call"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDefinition:
    """A tool as the model sees it. `parameters` is a JSON schema of an object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Json] = field(default_factory=lambda: {"type": "object", "properties": {}})


OutputMode: TypeAlias = Literal["native", "tool", "prompted"]
"""How a model can be had to answer with an object: bound to a schema by its provider, by calling a tool, or
by being asked to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSchema:
    """What an answer has to be: `schema` is the JSON schema of an object."""

    name: str
    description: str = ""
    schema: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One call of a model.

    `messages` are in order and end with what the model shall answer; an assistant message holds whole
    steps, tool outcomes included. No tool call in them lacks an outcome. `settings` are passed on as they
    are (`temperature`, `max_tokens`, ...). With `output` the answer's text is JSON of that schema; it is only
    given to a model whose `output_modes` have "native".
    """

    messages: Sequence[Message]
    instructions: str = ""
    tools: Sequence[ToolDefinition] = ()
    settings: Mapping[str, Json] = field(default_factory=dict)
    output: OutputSchema | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelResponse:
    """What the model answered.

    `finish_reason` is "stop", "length", "content-filter", "tool-calls", "error", or `None` when the
    provider did not say. `provider` is JSON that belongs to this response as a whole.
    """

    parts: tuple[ResponsePart, ...]
    usage: Usage = field(default_factory=Usage)
    model: str | None = None
    finish_reason: str | None = None
    provider: Mapping[str, Json] | None = None

    def step_part(self) -> StepPart:
        """What goes before `parts` in a message, so that the provider gets back all it sent."""
        return StepPart(
            model=self.model,
            finish_reason=self.finish_reason,
            usage=self.usage.to_dict(),
            provider=self.provider,
        )


@dataclass(frozen=True, slots=True)
class PartStarted:
    """Part number `index` of the response begins. `part` holds what is known of it so far.

    The arguments of a tool call come in deltas only; here they are empty.
    """

    index: int
    part: ResponsePart


@dataclass(frozen=True, slots=True)
class PartDelta:
    """More of part `index`: text, reasoning text, or the arguments of a tool call as raw JSON text."""

    index: int
    delta: str


@dataclass(frozen=True, slots=True)
class PartEnded:
    """Part `index` is complete: its text is final.

    Providers may send metadata (a signature) of a part after it ended, so what is kept of an answer is
    taken from `ResponseEnded`.
    """

    index: int
    part: ResponsePart


@dataclass(frozen=True, slots=True)
class ResponseEnded:
    """The last event of a stream: the whole response."""

    response: ModelResponse


ModelEvent: TypeAlias = PartStarted | PartDelta | PartEnded | ResponseEnded


class Model(ABC):
    """A language model. Implementations are safe to use from several tasks and event loops at once.

    Failures are raised as `ModelError`. A cancelled call leaves no connection behind.
    """

    delegates: ClassVar[bool] = False
    """Whether it only asks other models, whose calls are traced themselves."""

    @property
    @abstractmethod
    def name(self) -> str:
        """`provider:model`, for records and messages."""

    @property
    def output_modes(self) -> tuple[OutputMode, ...]:
        """How it can answer with an object, the best way first; "prompted" is always one."""
        return ("tool", "prompted")

    @abstractmethod
    async def request(self, request: ModelRequest) -> ModelResponse:
        """Answer `request` in one piece."""

    @abstractmethod
    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Answer `request` piece by piece.

        Each part gives `PartStarted`, any number of `PartDelta`, and `PartEnded`; text that `PartStarted`
        already holds is not repeated in a delta. Several parts may be open at once. `ResponseEnded` comes
        last, always, unless it raises; its `parts[index]` are the parts of the events before it. Who may
        leave early closes the generator (`contextlib.aclosing`), which ends the request.
        """

    async def aclose(self) -> None:  # noqa: B027 - most models have nothing to close
        """Release connections. Called by whoever made the model."""

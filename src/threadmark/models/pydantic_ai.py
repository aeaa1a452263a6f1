"""Every provider that Pydantic AI knows, behind `Model`. Importing this module imports Pydantic AI."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from typing import Any, cast

from pydantic_ai import direct
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import Model as ProviderModel
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models import infer_model as infer_provider_model
from pydantic_ai.output import OutputObjectDefinition
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition as ProviderTool

from .._errors import ConfigurationError, ThreadmarkError
from .._types import Json
from ._convert import to_model_messages
from ._failures import model_error
from ._loops import ModelPerLoop
from ._response import to_response
from ._stream import StreamTranslator
from .base import Model, ModelEvent, ModelRequest, ModelResponse, OutputMode, ToolDefinition


class PydanticAIModel(Model):
    """A model of Pydantic AI.

    `model` is a model object, or a function without arguments that makes one. A function is called once for
    each event loop that uses this model, so such a model works on several running loops at once; an object
    works on one running loop after the other, and raises `ConfigurationError` where two overlap. `name` is
    `provider:model`, taken from the model when not given.

    A setting in `ModelRequest.settings` is one of Pydantic AI's `ModelSettings`; others are passed on too.
    """

    def __init__(
        self, model: ProviderModel | Callable[[], ProviderModel], *, name: str | None = None
    ) -> None:
        first: ProviderModel
        if isinstance(model, ProviderModel):
            first = model
            self._models = ModelPerLoop(model=model)
        elif callable(model):
            first = model()
            if not isinstance(first, ProviderModel):
                raise ConfigurationError(
                    f"the function must return a Pydantic AI model, not {type(first).__name__}"
                )
            made: list[ProviderModel] = [first]  # the first loop gets the one that was made to look at
            self._models = ModelPerLoop(make=lambda: made.pop() if made else model())
        else:
            raise ConfigurationError(
                f"model must be a Pydantic AI model or a function that makes one, not {type(model).__name__}"
            )
        self._name = name or f"{first.system}:{first.model_name}"
        self.secrets = _secrets(first)
        """Keys that no message may hold."""
        self._output_modes = _output_modes(first)

    @property
    def output_modes(self) -> tuple[OutputMode, ...]:
        return self._output_modes

    @property
    def name(self) -> str:
        return self._name

    def __repr__(self) -> str:
        return f"PydanticAIModel({self._name!r})"

    async def request(self, request: ModelRequest) -> ModelResponse:
        try:
            messages, settings, parameters = _prompt(request)
            model = await self._models.get()
            return to_response(
                await direct.model_request(
                    model, messages, model_settings=settings, model_request_parameters=parameters
                )
            )
        except ThreadmarkError:
            raise
        except Exception as error:
            raise model_error(self._name, error, *self.secrets) from error

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """See `Model.stream`. Close the iterator when leaving early (`contextlib.aclosing`): that, or
        cancelling the task, closes the connection."""
        try:
            messages, settings, parameters = _prompt(request)
            model = await self._models.get()
            translator = StreamTranslator()
            async with direct.model_request_stream(
                model, messages, model_settings=settings, model_request_parameters=parameters
            ) as stream:
                async for event in stream:
                    for translated in translator.feed(event):
                        yield translated
                whole = stream.get()
            for translated in translator.finish(whole):
                yield translated
        except ThreadmarkError:
            raise
        except Exception as error:
            raise model_error(self._name, error, *self.secrets) from error

    async def aclose(self) -> None:
        """Close the connections of the running event loop. Those of other loops close when the loop does."""
        await self._models.aclose()


def make(name: str) -> ProviderModel:
    """Pydantic AI's model called `provider:model`. Raises what its provider raises."""
    return infer_provider_model(name)


def _prompt(
    request: ModelRequest,
) -> tuple[list[ModelMessage], ModelSettings | None, ModelRequestParameters]:
    settings: Mapping[str, Json] = request.settings
    return (
        to_model_messages(request.messages, instructions=request.instructions),
        cast(ModelSettings, dict(settings)) if settings else None,
        _parameters(request),
    )


def _parameters(request: ModelRequest) -> ModelRequestParameters:
    tools = [_tool(tool) for tool in request.tools]
    output = request.output
    if output is None:
        return ModelRequestParameters(function_tools=tools)
    wanted = OutputObjectDefinition(
        json_schema=dict(output.schema), name=output.name, description=output.description or None
    )
    return ModelRequestParameters(function_tools=tools, output_mode="native", output_object=wanted)


def _tool(tool: ToolDefinition) -> ProviderTool:
    return ProviderTool(
        name=tool.name,
        description=tool.description or None,
        parameters_json_schema=dict(tool.parameters),
    )


def _output_modes(model: ProviderModel) -> tuple[OutputMode, ...]:
    profile: Mapping[str, Any] = model.profile
    native: tuple[OutputMode, ...] = ("native",) if profile.get("supports_json_schema_output") else ()
    tool: tuple[OutputMode, ...] = ("tool",) if profile.get("supports_tools", True) else ()
    if model.system.startswith("google") and not profile.get("google_supports_tool_combination"):
        return (*tool, *native, "prompted")  # these refuse a schema beside tools
    return (*native, *tool, "prompted")


def _secrets(model: ProviderModel) -> tuple[str, ...]:
    """Keys that must not appear in a message, as far as the provider's client shows them."""
    with suppress(Exception):
        key: Any = getattr(getattr(model, "client", None), "api_key", None)
        if isinstance(key, str):
            return (key,)
    return ()

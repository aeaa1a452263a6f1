"""Language models: what an agent needs of one, and which model a name means.

`infer_model` is the door. Provider libraries are imported when a model that needs them is first made.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeAlias

from .._errors import ConfigurationError
from .base import (
    Model,
    ModelEvent,
    ModelRequest,
    ModelResponse,
    OutputMode,
    OutputSchema,
    PartDelta,
    PartEnded,
    PartStarted,
    ResponseEnded,
    ResponsePart,
    ToolDefinition,
)

if TYPE_CHECKING:
    from pydantic_ai.models import Model as ProviderModel

    ModelLike: TypeAlias = str | Model | ProviderModel
    """What names a model: `provider:model`, `provider/model`, `"local"`, or a model object."""

__all__ = [
    "Model",
    "ModelEvent",
    "ModelRequest",
    "ModelResponse",
    "OutputMode",
    "OutputSchema",
    "PartDelta",
    "PartEnded",
    "PartStarted",
    "ResponseEnded",
    "ResponsePart",
    "ToolDefinition",
    "infer_model",
]


def infer_model(model: ModelLike) -> Model:
    """The model that `model` means.

    A string is `provider:model` or `provider/model`, where the first separator counts, or "local" for the
    small model that runs in this process. A `Model` is returned as it is; a model object of Pydantic AI is
    wrapped, and then works on one running event loop at a time (see `PydanticAIModel`).

    Raises `ConfigurationError` naming what is malformed, not installed (with the command that installs it)
    or not set (with the environment variable).
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, str):
        if model == "local":
            from .local import local_model

            return local_model()
        from ._infer import provider_model

        return provider_model(model)
    # Whoever holds an object of Pydantic AI has imported it.
    provider = sys.modules.get("pydantic_ai.models")
    if provider is not None and isinstance(model, provider.Model):
        from .pydantic_ai import PydanticAIModel

        return PydanticAIModel(model)
    raise ConfigurationError(
        f"model must be a 'provider:model' string, a threadmark Model or a Pydantic AI model, "
        f"not {type(model).__name__}"
    )

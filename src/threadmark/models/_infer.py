"""Which model a `provider:model` string means, and what is missing when it cannot be made."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from .._errors import ConfigurationError
from .base import Model

if TYPE_CHECKING:
    from pydantic_ai.models import Model as ProviderModel

_OWN_EXTRAS: Final = frozenset({"openai", "anthropic", "google"})
_OTHER_EXTRAS: Final = frozenset(
    {"bedrock", "cohere", "groq", "huggingface", "mistral", "openrouter", "xai"}
)  # what is neither here nor above speaks OpenAI's protocol
_EXTRA: Final = re.compile(r"pydantic-ai-slim\[([\w-]+)\]")
_VARIABLE: Final = re.compile(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b")
_EXPECTED: Final = "give 'provider:model' (for example 'openai:gpt-5-mini' or 'anthropic/claude-sonnet-4-5')"


def split_name(name: str) -> tuple[str, str]:
    """Provider and model of `provider:model` or `provider/model`; the first separator counts.

    Raises `ConfigurationError` for anything else.
    """
    separator = re.search("[:/]", name)
    if separator is None or name != name.strip():
        raise ConfigurationError(f"model {name!r} is not a model name; {_EXPECTED}, or 'local'")
    provider, model = name[: separator.start()], name[separator.end() :]
    if provider == "gateway" and ":" in model:  # gateway/openai:gpt-5 is a provider of its own
        upstream, _, model = model.partition(":")
        provider = f"gateway/{upstream}"
    if not provider.strip() or not model.strip():
        raise ConfigurationError(
            f"model {name!r} names no {'model' if provider else 'provider'}; {_EXPECTED}"
        )
    return provider, model


def provider_model(name: str) -> Model:
    """The model called `name`. Raises `ConfigurationError` saying what to install or to set."""
    provider, model = split_name(name)
    try:
        from .pydantic_ai import PydanticAIModel, make
    except ImportError as error:
        raise _not_installed(name, provider, error) from error
    full = f"{provider}:{model}"
    return PydanticAIModel(_checked(name, provider, partial(make, full)), name=full)


def _checked(name: str, provider: str, make: Callable[[], ProviderModel]) -> Callable[[], ProviderModel]:
    def checked() -> ProviderModel:
        try:
            return make()
        except ImportError as error:
            raise _not_installed(name, provider, error) from error
        except Exception as error:  # each provider's client has its own for a missing key
            raise _misconfigured(name, error) from error

    return checked


def _not_installed(name: str, provider: str, error: ImportError) -> ConfigurationError:
    named = _EXTRA.search(str(error))
    group = provider.rpartition("/")[2].partition("-")[0]
    if named:
        extra = named[1]
    elif group in _OWN_EXTRAS or group in _OTHER_EXTRAS:
        extra = group
    else:
        extra = "openai"
    package = "threadmark" if extra in _OWN_EXTRAS else "pydantic-ai-slim"
    return ConfigurationError(
        f"model {name!r} needs packages that are not installed; run: pip install '{package}[{extra}]'"
    )


def _misconfigured(name: str, error: Exception) -> ConfigurationError:
    text = str(error).partition(" To try Pydantic AI without")[0]
    variables = list(dict.fromkeys(_VARIABLE.findall(text)))
    if variables and re.search("key|token|credential|environment variable", text, re.IGNORECASE):
        return ConfigurationError(
            f"model {name!r} is not configured: set the environment variable {' or '.join(variables)}"
        )
    return ConfigurationError(f"model {name!r} cannot be made: {text or type(error).__name__}")

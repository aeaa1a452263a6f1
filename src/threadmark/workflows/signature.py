"""What a workflow's function takes and gives, by its signature."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any

from .._errors import ConfigurationError


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise ConfigurationError(f"cannot read the types of workflow {function!r}: {error}") from None


def inputs_of(function: Callable[..., Any], parameters: Sequence[inspect.Parameter]) -> Callable[..., Any]:
    """A stand-in for `function` without its context: what a model is told, and what checks the input."""

    async def described(*args: Any, **kwargs: Any) -> Any: ...

    hints = hints_of(function)
    described.__name__ = getattr(function, "__name__", "workflow")
    described.__doc__ = function.__doc__
    described.__annotations__ = {p.name: hints[p.name] for p in parameters[1:] if p.name in hints}
    described.__signature__ = inspect.Signature(parameters[1:])  # type: ignore[attr-defined]
    return described

"""The arguments of a tool call, from the text that a model wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping

from .._codec import to_json
from .._errors import ValidationError
from .._types import Json


def parse_args(args: str | Mapping[str, Json] | None) -> Json:
    """A call's arguments: a dict, or the text as it came when it is not a JSON object that can be kept."""
    if args is None or args == "":
        return {}
    if not isinstance(args, str):
        return dict(args)
    try:
        value = json.loads(args)
        if isinstance(value, dict):
            to_json(value)  # refuses NaN and infinities, and nesting too deep to write again
            return value
    except (ValueError, RecursionError, ValidationError):
        pass
    return args

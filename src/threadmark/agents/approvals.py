"""Which calls a person must approve before they are made."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

from .._types import ToolPart
from .plan import ApprovalRule
from .request_context import RequestContext
from .tools import Tool

log = logging.getLogger("threadmark.agents")


async def needs_approval(call: ToolPart, tool: Tool, rule: ApprovalRule, context: RequestContext) -> bool:
    """Whether the tool or the run says so. A function that fails counts as saying yes."""
    args = call.args or {}
    return await _says(tool.requires_approval, (args,), context) or await _says(
        rule, (call.tool_name, args), context
    )


async def _says(rule: bool | Callable[..., Any], given: tuple[Any, ...], context: RequestContext) -> bool:
    if isinstance(rule, bool):
        return rule
    try:
        answer = rule(*given, context) if _takes(rule, len(given) + 1) else rule(*given)
        return bool(await answer if inspect.isawaitable(answer) else answer)
    except Exception as error:
        # Not the error's text: it may quote arguments.
        log.warning("a function that decides about approval raised %s: required", type(error).__name__)
        return True


def _takes(function: Callable[..., Any], count: int) -> bool:
    """Whether `function` can be called with `count` positional arguments."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return False
    return True

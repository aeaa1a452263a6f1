"""Running the tool calls of one step: side by side, each to an outcome that can be stored and sent."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from .._codec import to_json
from .._errors import ValidationError
from .._sync import in_thread
from .._tracing import Span
from .._types import Json, ToolPart
from ..memory.context.render import interrupted
from .hooks import Hooks, around, for_model
from .tools import InvalidArgumentsError, SuspendSignal, Tool, ToolContext, ToolFailure, ToolSet
from .tracing import refused, tell_outcome, tool_span

MAX_ERROR_CHARACTERS = 2000
"""How much of an error a model is told."""

GRACE = 1.0
"""Seconds that interrupted tools have to clean up before they are left behind."""


async def run_calls(
    calls: Sequence[ToolPart],
    tools: ToolSet,
    context: Callable[[ToolPart], ToolContext],
    limit: int,
    settled: Callable[[int, ToolPart], None],
    hooks: Hooks | None = None,
) -> None:
    """Run `calls`, at most `limit` at once, and report each outcome with its index, in the calls' order.

    No tool makes this raise. When it is cancelled, unfinished calls are cancelled and reported as
    interrupted, finished ones as what they gave, and the cancellation goes on.
    """
    gate = asyncio.Semaphore(limit) if len(calls) > limit else None
    tasks = [_start(call, tools, context, gate, hooks) for call in calls]
    reported = 0
    try:
        for index, task in enumerate(tasks):
            if isinstance(task, asyncio.Task) and not task.done():
                await asyncio.wait((task,))
            settled(index, _outcome(calls[index], task, stopped=False))
            reported += 1
    except asyncio.CancelledError:
        await stop_tasks([task for task in tasks if isinstance(task, asyncio.Task) and not task.done()])
        for index in range(reported, len(calls)):
            settled(index, _outcome(calls[index], tasks[index], stopped=True))
        raise


def sound(call: ToolPart) -> ToolPart:
    """`call`, or with its arguments as text if they are not JSON: `NaN` gets past many a parser."""
    try:
        to_json(call.args, "arguments")
    except ValidationError:
        try:
            return dataclasses.replace(call, args=repr(call.args))
        except ValueError:  # a whole number that is too long to be written
            return dataclasses.replace(call, args="not JSON")
    return call


def describe_error(error: BaseException) -> str:
    """`TypeName: message`, bounded."""
    try:
        message = str(error)
    except Exception:
        message = ""
    name = type(error).__name__
    text = f"{name}: {message}" if message else name
    # It is stored and sent: what no database or provider takes is shown as an escape.
    text = text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MAX_ERROR_CHARACTERS else text[: MAX_ERROR_CHARACTERS - 1] + "…"


# -- one call ----------------------------------------------------------------------------------------


def _start(
    call: ToolPart,
    tools: ToolSet,
    context: Callable[[ToolPart], ToolContext],
    gate: asyncio.Semaphore | None,
    hooks: Hooks | None,
) -> ToolPart | asyncio.Task[ToolPart]:
    """Check the call and start its tool; the outcome itself when the tool is not to be run."""
    tool = tools.tools.get(call.tool_name)
    if tool is None:
        names = ", ".join(tools.tools)
        known = f"Available tools: {names}." if names else "No tools are available."
        refused(call, None, "unknown_tool")
        return _failed(call, f"Unknown tool {call.tool_name[:100]!r}. {known}")
    if isinstance(call.args, str) and call.args.strip():
        refused(call, tool, "invalid_arguments")
        return _failed(call, "Invalid arguments: not valid JSON")
    checked = check_arguments(call, tool)
    if isinstance(checked, ToolPart):
        refused(call, tool, "invalid_arguments")
        return checked
    positional, named = checked
    try:
        told = context(call) if tool.takes_context or hooks is not None else None
    except Exception as error:  # an answer that was given to an earlier version of the tool
        return _failed(call, describe_error(error))
    if tool.takes_context:
        positional.insert(0, told)

    async def run() -> ToolPart:
        async with gate or contextlib.nullcontext():
            if hooks is None or told is None:
                outcome = await _run(call, tool, positional, named)
            else:
                outcome = await around(
                    hooks,
                    told,
                    call,
                    lambda: _run(call, tool, positional, named),
                    lambda value: with_output(call, value),
                    lambda error: _failed(call, describe_error(error)),
                )
        return await for_model(outcome, tools)

    return asyncio.ensure_future(run())


def check_arguments(call: ToolPart, tool: Tool) -> tuple[list[Any], dict[str, Any]] | ToolPart:
    """Positional and keyword arguments for the tool's function; the failed call if they do not fit."""
    try:
        return tool.validate(call.args or {})
    except InvalidArgumentsError as error:
        return _failed(call, f"Invalid arguments: {error}")
    except Exception as error:  # a validator of the user's own types
        return _failed(call, f"Invalid arguments: {describe_error(error)}")


async def _run(call: ToolPart, tool: Tool, args: list[Any], kwargs: dict[str, Any]) -> ToolPart:
    with tool_span(call, tool) as span:
        outcome = await _carry_out(call, tool, args, kwargs, span)
        tell_outcome(span, outcome)
        return outcome


async def _carry_out(
    call: ToolPart, tool: Tool, args: list[Any], kwargs: dict[str, Any], span: Span
) -> ToolPart:
    try:
        value = await _within(tool.timeout, _invoke(tool, args, kwargs))
    except _TooLongError:
        span.fail("timeout")
        return _failed(call, f"Timed out after {tool.timeout:g} seconds.")
    except SuspendSignal as signal:
        if signal.pause is not None:
            return dataclasses.replace(call, pause={**signal.pause, **_approval(call)})
        return _suspended(call, tool, signal.payload)
    except ToolFailure as failure:
        span.fail(failure.__cause__ or failure)
        return _failed(call, str(failure))
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:  # whatever a tool raises must not cost the turn
        span.fail(error)
        return _failed(call, describe_error(error))
    outcome = with_output(call, value)
    if outcome.state == "error":
        span.fail("invalid_output")
    return outcome


def with_output(call: ToolPart, value: Any) -> ToolPart:
    """`call` with what its tool gave; failed if that cannot be expressed as JSON."""
    try:
        return dataclasses.replace(call, state="result", output=as_json(value))
    except ValidationError as error:
        return _failed(call, str(error))


class _TooLongError(Exception):
    """A tool took longer than its own limit."""


async def _within(seconds: float | None, work: Coroutine[Any, Any, Any]) -> Any:
    """The value of `work`; after `seconds` it is cancelled, and left behind if it does not mind that."""
    if seconds is None:
        return await work
    task: asyncio.Task[Any] = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task,), timeout=seconds)
    except asyncio.CancelledError:
        await stop_tasks([task])
        raise
    if task.done():
        return task.result()
    await stop_tasks([task])
    raise _TooLongError


async def _invoke(tool: Tool, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if tool.is_async:
        return await tool.function(*args, **kwargs)
    value = await in_thread(lambda: tool.function(*args, **kwargs), "threadmark-tool")
    return await value if inspect.isawaitable(value) else value


def as_json(value: Any) -> Json:
    """`value` as JSON. Raises `ValidationError` saying what cannot be."""
    if value is None or type(value) in (str, bool):
        return value
    import pydantic_core

    try:
        plain = pydantic_core.to_jsonable_python(value)
        to_json(plain, "the value")  # refuses what has no JSON form, such as NaN
    except Exception as error:
        reason = describe_error(error)
        raise ValidationError(f"The tool's result cannot be expressed as JSON. {reason}") from None
    return plain


def _suspended(call: ToolPart, tool: Tool, payload: Any) -> ToolPart:
    """`call` as it waits for an answer."""
    try:
        pause = {"kind": "suspension", "payload": as_json(payload)}
    except ValidationError as error:
        return _failed(call, f"The tool suspended with a payload that is not JSON. {error}")
    if tool.resume_schema is not None:
        pause["schema"] = dict(tool.resume_schema.schema)
    return dataclasses.replace(call, pause={**pause, **_approval(call)})


def _approval(call: ToolPart) -> dict[str, Json]:
    """Who approved a call that waits again, for its new `pause`."""
    before = dict(call.pause or {})
    approval = before if before.get("kind") == "approval" else before.get("approval")
    return {"approval": approval} if approval else {}


def _failed(call: ToolPart, error: str) -> ToolPart:
    return dataclasses.replace(call, state="error", error=error[:MAX_ERROR_CHARACTERS])


# -- tasks -------------------------------------------------------------------------------------------

_left_behind: set[asyncio.Task[Any]] = set()


async def stop_tasks(tasks: list[asyncio.Task[Any]]) -> None:
    """Cancel `tasks` and wait for them, but not for long, even if cancelled again meanwhile."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + GRACE
    for task in tasks:
        task.cancel()
    pending = set(tasks)
    while pending and (left := deadline - clock()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            _, pending = await asyncio.wait(pending, timeout=left)
    for task in pending:
        _left_behind.add(task)
        task.add_done_callback(_forget)


def _forget(task: asyncio.Task[Any]) -> None:
    _left_behind.discard(task)
    if not task.cancelled():
        task.exception()  # whatever it was, nobody waits for it


def _outcome(call: ToolPart, task: ToolPart | asyncio.Task[ToolPart], *, stopped: bool) -> ToolPart:
    if isinstance(task, ToolPart):
        return task
    if not task.done() or (stopped and task.cancelled()):
        return interrupted(call)
    if task.cancelled():
        return _failed(call, "CancelledError: the tool cancelled itself")
    return task.result()

"""What a step may do: a function, a tool, an agent or another workflow, as something to call."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from .._codec import to_json
from .._errors import (
    ConfigurationError,
    ConflictError,
    ThreadmarkError,
    ValidationError,
    WorkflowStepError,
)
from .._ids import MAX_ID_BYTES
from .._sync import in_thread
from ..agents.request_context import RequestContext
from ..agents.result import AgentResult

POLL = 1.0
"""Seconds between looks at a call that another process is making, or was making when it died."""


async def outcome_of(call: Callable[[], Any], key: str) -> Any:
    """What a call gives; one that is not a coroutine function runs in a thread."""
    function = call.func if isinstance(call, functools.partial) else call
    if inspect.iscoroutinefunction(function):
        return await call()
    made = await in_thread(call, f"threadmark-step-{key[:40]}")
    return await made if inspect.isawaitable(made) else made


def as_function(work: Any, key: str, run_id: str, kwargs: dict[str, Any]) -> Callable[..., Any]:
    """`work` as a function. Raises `ValidationError` for what cannot be called."""
    if _is_agent(work):

        async def ask(*args: Any, **options: Any) -> Any:
            result = await _asked(work, args, options, run_id, key)
            if result.finish_reason == "suspended":
                raise ConfigurationError("an agent that waits for a person cannot be a step; suspend the run")
            if result.tripwire is not None:
                raise WorkflowStepError(f"a processor stopped the agent: {result.tripwire.reason}", step=key)
            if result.finish_reason in ("timeout", "aborted"):
                raise WorkflowStepError(f"the agent's run ended with {result.finish_reason!r}", step=key)
            asked = options.get("output") or work.output
            return result.text if asked is None else result.object

        return ask
    if _is_workflow(work):

        async def nest(**inputs: Any) -> Any:
            if inputs.get("resource") is not None:
                inputs.setdefault("run_id", _run_of_step(run_id, key))
            result = await work.run(**inputs)
            if result.status == "suspended":
                raise ConfigurationError("a workflow that suspends cannot be a step")
            return result.output

        return nest
    function = getattr(work, "function", work)
    if getattr(work, "takes_context", False):
        raise ValidationError(
            f"step {key!r}: tool {work.name!r} needs the ToolContext that an agent gives it"
        )
    if not callable(function):
        raise ValidationError(f"step {key!r} needs a function, not {work!r}")
    return function  # type: ignore[no-any-return]


async def _asked(
    agent: Any, args: tuple[Any, ...], options: dict[str, Any], run_id: str, key: str
) -> AgentResult:
    """An agent's answer, stored once: executed again after a crash, a step gets the answer that there is.

    A call whose process died is made again, as the step is: under another id, when the dead one's lease is
    over. Whatever its tools did until then they may do again.
    """
    if "run_id" in options:
        result: AgentResult = await agent.generate(*args, **options)
        return result
    attempt = 1
    while True:
        id_ = _run_of_step(run_id, key if attempt == 1 else f"{key}~{attempt}")
        try:
            result = await agent.generate(*args, **options, run_id=id_)
        except ConflictError:
            if not await _is_under_way(agent, options, id_):
                raise
            await _wait()
            continue
        if not (result.replayed and result.finish_reason == "aborted"):
            return result
        attempt += 1


async def _wait() -> None:
    await asyncio.sleep(POLL)


async def _is_under_way(agent: Any, options: Mapping[str, Any], run_id: str) -> bool:
    """Whether the call is being made, or seems to be: then its process may have died just now."""
    context = options.get("request_context")
    owner = getattr(context, "resource", None) or options.get("resource")
    if owner is None:
        return False
    user = options.get("memory") or await agent._choose_memory(context or RequestContext())
    run = await user.open_runs.get(owner, run_id)
    return run is not None and run.status == "running"


def result_type(work: Any, kwargs: Mapping[str, Any]) -> Any:
    """The type of what `work` gives, as far as it is known."""
    if _is_agent(work):
        return _object_type(kwargs.get("output") or work.output)
    if _is_workflow(work):
        return work.returns
    function = getattr(work, "function", work)
    try:
        return typing.get_type_hints(function, include_extras=True).get("return")
    except (TypeError, NameError, AttributeError):
        return None


def _object_type(output: Any) -> Any:
    from ..agents.output import Output

    if output is None:
        return None
    output = Output.of(output)
    if isinstance(output.schema, Mapping):
        return None
    if output.on_invalid == "raise":
        return output.schema
    from pydantic import Field

    # What is given when no answer fits need not be of the type.
    either: Any = typing.Union[output.schema, Any]  # noqa: UP007 - not whatever may be a schema takes `|`
    return typing.Annotated[either, Field(union_mode="left_to_right")]


def digest_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """What identifies the arguments, as far as they are JSON."""
    from pydantic_core import to_jsonable_python

    try:
        plain = to_jsonable_python([args, kwargs], serialize_unknown=False)
        text = to_json(plain, "arguments")
    except (ValueError, ThreadmarkError):
        return "-"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def check_seconds(name: str, value: Any, *, least: float | None = None) -> float:
    """`value` if it is a number of seconds: positive, or with `least` that or more."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValidationError(f"{name} must be a number of seconds, not {value!r}")
    if not (value > 0 if least is None else value >= least):
        raise ValidationError(
            f"{name} must be {'positive' if least is None else 'at least 0'}, not {value!r}"
        )
    return float(value)


def _is_agent(work: Any) -> bool:
    return hasattr(work, "generate") and hasattr(work, "stream")


def _is_workflow(work: Any) -> bool:
    return hasattr(work, "run") and hasattr(work, "resume") and hasattr(work, "definition")


def _run_of_step(run_id: str, key: str) -> str:
    named = f"{run_id}/{key}"
    if len(named.encode("utf-8", "replace")) <= MAX_ID_BYTES:
        return named
    return f"{run_id[:100]}/{hashlib.blake2b(named.encode('utf-8', 'replace'), digest_size=16).hexdigest()}"

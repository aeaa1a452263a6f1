"""An application's own hooks into a run: before each step, and around each tool.

Hooks are plain or async; plain ones run in a thread of their own. To change or stop what goes to a model and
comes back, write a processor.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .._errors import ConfigurationError
from .._ids import check_metadata
from .._sync import in_thread
from .._types import Json, Message, TextPart, ToolPart, Usage
from .tools import SuspendSignal, ToolContext, ToolSet

if TYPE_CHECKING:
    from ..models import ModelLike
    from .request_context import RequestContext
    from .state import RunState

log = logging.getLogger("threadmark.agents")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """What `prepare_step` learns of the model call that comes: its number from 1, what will be sent, and the
    usage of the run so far. `model` and `tools` are names."""

    run_id: str
    agent: str
    step: int
    model: str
    tools: tuple[str, ...]
    messages: tuple[Message, ...]
    usage: Usage
    resource_id: str | None
    thread_id: str | None
    request_context: RequestContext


@dataclass(frozen=True, slots=True, kw_only=True)
class StepChanges:
    """What `prepare_step` wants otherwise, for one step; what is `None` is as the call has it.

    Args:
        model: Answers this step.
        tools: Names of those tools that may be called, of those that there are.
        tool_choice: "auto", "required", "none", or names of tools of which one must be called; for providers
            that know it.
        instructions: Instead of all of them, memory's own included.
        settings: For the model, over the call's, key by key.
    """

    model: ModelLike | None = None
    tools: Sequence[str] | None = None
    tool_choice: str | Sequence[str] | None = None
    instructions: str | None = None
    settings: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SkipTool:
    """What `before_tool` returns to have `output` taken for the tool's, which is then not called."""

    output: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolEnd:
    """How a call ended, for `after_tool`: its part, whether the tool was skipped, and the seconds it took."""

    part: ToolPart
    skipped: bool
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEnd:
    """What `after_step` learns of a step: its `text` and `tool_calls` with their outcomes, whether the run
    ends with it, and the usage of the run so far."""

    run_id: str
    agent: str
    step: int
    max_steps: int
    text: str
    tool_calls: tuple[ToolPart, ...]
    is_final: bool
    finish_reason: str
    usage: Usage
    resource_id: str | None
    thread_id: str | None
    request_context: RequestContext


@dataclass(frozen=True, slots=True, kw_only=True)
class StepVerdict:
    """What `after_step` wants: to `stop` the run here, or to have the model go on with `feedback`, which is
    in its very next prompt and nowhere else. A run goes on to `max_steps` at most."""

    stop: bool = False
    feedback: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """An application's hooks, of an agent or of a call (which then take the place of the agent's).

    Args:
        prepare_step: Called with a `StepContext` before each model call; may return `StepChanges`. Later
            steps start from the call's own choices. What it raises fails the run.
        after_step: Called with a `StepEnd` after each model call and its tools; may return a `StepVerdict`.
            What it raises fails the run.
        before_tool: Called with the `ToolContext` and the arguments before a tool runs; may return
            `SkipTool(output)`. What it raises is the call's error, and the tool is not called.
        after_tool: Called with the `ToolContext` and a `ToolEnd` after each call that `before_tool` saw. What
            it raises is logged.

    Raises `ConfigurationError` for what cannot be called.
    """

    prepare_step: Callable[[StepContext], StepChanges | Awaitable[StepChanges | None] | None] | None = None
    after_step: Callable[[StepEnd], StepVerdict | Awaitable[StepVerdict | None] | None] | None = None
    before_tool: Callable[[ToolContext, dict[str, Json]], Any] | None = None
    after_tool: Callable[[ToolContext, ToolEnd], Any] | None = None

    def __post_init__(self) -> None:
        for name in ("prepare_step", "after_step", "before_tool", "after_tool"):
            hook = getattr(self, name)
            if hook is not None and not callable(hook):
                raise ConfigurationError(f"{name} must be a function, not {type(hook).__name__}")


def check_hooks(hooks: object) -> Hooks | None:
    """`hooks` if they are. Raises `ConfigurationError`."""
    if hooks is not None and not isinstance(hooks, Hooks):
        raise ConfigurationError(f"hooks must be Hooks(...), not {type(hooks).__name__}")
    return hooks


async def _call(hook: Callable[..., Any], *args: Any) -> Any:
    if inspect.iscoroutinefunction(hook):
        return await hook(*args)
    made = await in_thread(lambda: hook(*args), "threadmark-hook")
    return await made if inspect.isawaitable(made) else made


# -- before a step -----------------------------------------------------------------------------------


async def prepare(state: RunState) -> None:
    """Choose model, tools, instructions and settings of the step that begins."""
    plan, hooks = state.plan, state.plan.hooks
    state.model, state.tools, state.offered = plan.model, plan.tools, plan.tools
    state.instructions, state.settings = state.prompt.instructions, plan.settings
    if hooks is None or hooks.prepare_step is None:
        return
    context = StepContext(
        run_id=plan.run_id,
        agent=plan.agent,
        step=state.step,
        model=plan.model.name,
        tools=tuple(plan.tools.tools),
        messages=state.conversation(),
        usage=state.usage,
        resource_id=None if state.turn is None else state.turn.resource_id,
        thread_id=None if state.turn is None else state.turn.thread_id,
        request_context=plan.request_context,
    )
    changes = await _call(hooks.prepare_step, context)
    if changes is None:
        return
    if not isinstance(changes, StepChanges):
        raise ConfigurationError(
            f"prepare_step returned a {type(changes).__name__}, not StepChanges(...) or None"
        )
    if changes.model is not None:
        from ..models import infer_model

        made = infer_model(changes.model)
        router = getattr(plan.model, "with_model", None)
        state.model = made if router is None else router(made)
    if changes.tools is not None:
        state.tools = state.offered = _chosen(plan.tools, changes.tools)
    if changes.instructions is not None:
        state.instructions = changes.instructions
    settings = check_metadata(changes.settings, kind="settings")
    if changes.tool_choice is not None:
        choice = changes.tool_choice
        settings["tool_choice"] = choice if isinstance(choice, str) else list(choice)
    if settings:
        state.settings = {**plan.settings, **settings}


def _chosen(tools: ToolSet, names: Sequence[str]) -> ToolSet:
    if isinstance(names, str):
        raise ConfigurationError(f"the tools of a step must be a sequence of names; write [{names!r}]")
    unknown = [name for name in names if name not in tools.tools]
    if unknown:
        raise ConfigurationError(f"prepare_step chose tools that there are not: {unknown!r}")
    kept = {name: tool for name, tool in tools.tools.items() if name in names}
    return ToolSet(kept, tuple([tool.definition for tool in kept.values()]))


# -- after a step ------------------------------------------------------------------------------------


async def judge_step(state: RunState, first: int, reason: str, *, final: bool) -> StepVerdict | None:
    """What `after_step` makes of the step whose parts begin at `first`."""
    plan, hooks = state.plan, state.plan.hooks
    if hooks is None or hooks.after_step is None:
        return None
    parts = state.parts[first:]
    end = StepEnd(
        run_id=plan.run_id,
        agent=plan.agent,
        step=state.step,
        max_steps=plan.max_steps,
        text="".join([part.text for part in parts if isinstance(part, TextPart)]),
        tool_calls=tuple([part for part in parts if isinstance(part, ToolPart)]),
        is_final=final,
        finish_reason=reason,
        usage=state.usage,
        resource_id=None if state.turn is None else state.turn.resource_id,
        thread_id=None if state.turn is None else state.turn.thread_id,
        request_context=plan.request_context,
    )
    verdict = await _call(hooks.after_step, end)
    if verdict is not None and not isinstance(verdict, StepVerdict):
        raise ConfigurationError(
            f"after_step returned a {type(verdict).__name__}, not StepVerdict(...) or None"
        )
    return verdict


# -- around a tool -----------------------------------------------------------------------------------


async def around(
    hooks: Hooks,
    context: ToolContext,
    call: ToolPart,
    run: Callable[[], Awaitable[ToolPart]],
    skip: Callable[[Any], ToolPart],
    fail: Callable[[BaseException], ToolPart],
) -> ToolPart:
    """The outcome of a call between its hooks. `run` calls the tool, `skip` makes an outcome of a value,
    `fail` one of an error."""
    began = time.monotonic()
    skipped = True
    try:
        args = call.args if isinstance(call.args, dict) else {}
        given = None if hooks.before_tool is None else await _call(hooks.before_tool, context, dict(args))
        if given is not None and not isinstance(given, SkipTool):
            raise TypeError(f"before_tool returned a {type(given).__name__}, not SkipTool(...) or None")
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except SuspendSignal:
        outcome = fail(ConfigurationError("a hook cannot suspend a call; only its tool can"))
    except BaseException as error:
        outcome = fail(error)
    else:
        if given is not None:
            outcome = skip(given.output)
        else:
            skipped = False
            outcome = await run()
    if hooks.after_tool is not None and outcome.state != "call":
        end = ToolEnd(part=outcome, skipped=skipped, seconds=time.monotonic() - began)
        try:
            await _call(hooks.after_tool, context, end)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException:
            log.exception("after_tool failed for tool %r, run %r", call.tool_name, context.run_id)
    return outcome


# -- what the model is shown -------------------------------------------------------------------------


async def for_model(outcome: ToolPart, tools: ToolSet) -> ToolPart:
    """`outcome` with what the model is shown instead of its output, if its tool says."""
    tool = tools.tools.get(outcome.tool_name)
    if tool is None or tool.to_model is None or outcome.state != "result":
        return outcome
    from .calls import as_json

    try:
        shown = as_json(await _call(tool.to_model, outcome.output))
    except Exception:
        # The tool has done its work, so this is not its failure; nor may the model see what is not for it.
        log.exception("to_model of tool %r failed", outcome.tool_name)
        shown = "The call succeeded, but its result cannot be shown."
    return replace(outcome, model_output=shown)

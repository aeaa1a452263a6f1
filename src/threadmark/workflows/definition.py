"""`@workflow`: a function whose run is recorded step by step, and can be gone on with by another process."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

from .._errors import ConfigurationError, ConflictError, NotFoundError, ThreadmarkError, ValidationError
from .._ids import check_id, check_text, new_id
from .._sync import sync_twin
from .._tracing import span
from .._types import Json, Run
from ..agents.calls import describe_error
from ..agents.deciding import NO_DATA
from ..agents.tools import Tool, build_tool
from ..memory.runs import has_lapsed
from ..models.base import ToolDefinition
from .context import WorkflowContext
from .events import OnWorkflowEvent
from .journal import AGENT, Journal, WorkflowPause, WorkflowStep
from .signals import Bail, Lost, Status, Suspended, ended_by, first_of
from .signature import hints_of, inputs_of
from .values import Shape

if TYPE_CHECKING:
    from ..memory import Memory

_OWN = ("memory", "resource", "thread", "run_id", "on_event")
"""Arguments of `Workflow.run` that are not the function's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowResult:
    """How a run ended or where it stands: the recorded `steps` by name, and what it waits for (`pending`)."""

    run_id: str
    workflow: str
    status: Status
    output: Any = None
    steps: Mapping[str, WorkflowStep] = field(default_factory=dict)
    pending: tuple[WorkflowPause, ...] = ()
    error: str | None = None


class Workflow:
    """A workflow; made by `workflow`.

    `definition` describes its input to a model, `returns` is the type of its output. With a memory, an owner
    (`resource`) and a `thread` a run is recorded after each step: it can suspend, and survives its process.
    Without them it runs in this process only, and cannot suspend.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None,
        description: str | None,
        memory: Memory | None,
    ) -> None:
        if not inspect.iscoroutinefunction(function):
            raise ConfigurationError(f"a workflow must be an async function, not {function!r}")
        parameters = list(inspect.signature(function).parameters.values())
        if not parameters:
            raise ConfigurationError("the first parameter of a workflow is its WorkflowContext")
        taken = [parameter.name for parameter in parameters[1:] if parameter.name in _OWN]
        if taken:
            raise ConfigurationError(
                f"parameter {taken[0]!r} of workflow {function.__name__!r} needs another name: "
                f"run(...) has a {taken[0]!r} of its own"
            )
        self.function = function
        self.memory = memory
        described = build_tool(inputs_of(function, parameters), name=name, description=description)
        self.name = described.name
        self.description = described.description
        self.definition: ToolDefinition = described.definition
        self.returns: Any = hints_of(function).get("return")
        self.validate = described.validate
        self._output = Shape(self.returns)

    def __repr__(self) -> str:
        return f"Workflow({self.name!r})"

    async def run(
        self,
        *,
        memory: Memory | None = None,
        resource: str | None = None,
        thread: str | None = None,
        run_id: str | None = None,
        on_event: OnWorkflowEvent | None = None,
        **inputs: Any,
    ) -> WorkflowResult:
        """Run it with `inputs`, its function's own arguments, until it has finished or suspends.

        A `run_id` that was used before for the same input gives that run's result, or goes on with it if its
        process died. Raises what the function raises, with the run's `WorkflowResult` as the error's `result`
        if it is Threadmark's; `ValidationError` for inputs that do not fit, or cannot be read back from JSON;
        `ConflictError` if the run is under way elsewhere, was made for other input or another thread, or
        failed or was aborted before.
        """
        memory, owner, thread_id = self._place(memory, resource, thread)
        _check_listener(on_event)
        positional, named = self._checked(inputs)
        run_id = new_id() if run_id is None else check_id("run", run_id)
        plain = Shape(None).dump(inputs)
        if owner is not None:
            self._checked(plain)  # as it will be read when the run goes on
        journal = Journal(memory, owner or "", thread_id or "", self.name, run_id, plain)
        if memory is not None and owner is not None:
            stored = await memory.store.get_run(owner, run_id)
            if stored is not None:
                self._check_same(stored, plain, thread_id)
                if stored.status in ("failed", "aborted"):
                    over = ConflictError(
                        f"workflow run {run_id!r} {'has ' if stored.status == 'failed' else 'was '}"
                        f"{stored.status}: {stored.error}; a new run needs another run_id"
                    )
                    over.result = self._stored(stored)
                    raise over
                if stored.status != "running":
                    return self._stored(stored)
                if not has_lapsed(stored, memory.now()):
                    raise ConflictError(f"workflow run {run_id!r} is under way")
                journal = Journal.of(memory, owner, stored)
        return await self._go(journal, run_id, owner, thread_id, positional, named, on_event)

    async def resume(
        self,
        run_id: str,
        data: Any = NO_DATA,
        *,
        memory: Memory | None = None,
        resource: str,
        name: str | None = None,
        on_event: OnWorkflowEvent | None = None,
    ) -> WorkflowResult:
        """Answer what a suspended run waits for, and go on with it; with several, `name` says which.

        A run whose process died is gone on with, without `data`. Raises `NotFoundError` for an unknown run or
        another owner's, `ConflictError` for one that is over, is under way, or was answered by somebody else
        just now, and `ValidationError` for data that does not fit or is missing: the run then still waits.
        """
        _check_listener(on_event)
        memory = memory or self.memory
        if memory is None:
            raise ConfigurationError(f"workflow {self.name!r} has no memory; give resume(memory=...)")
        owner = check_id("resource", resource)
        run = await memory.store.get_run(owner, check_id("run", run_id))
        if run is None or not self._is_mine(run):
            raise NotFoundError(f"workflow {self.name!r} has no run {run_id!r}")
        journal = Journal.of(memory, owner, run)
        inputs = journal.input if isinstance(journal.input, dict) else {}
        positional, named = self._checked(inputs)
        if run.status == "running":
            if not has_lapsed(run, memory.now()):
                raise ConflictError(f"workflow run {run_id!r} is under way")
            if data is not NO_DATA:
                await self._answer(journal, run, positional, named, data, name)
        elif run.status == "suspended":
            await self._answer(journal, run, positional, named, data, name)
        else:
            raise ConflictError(f"workflow run {run_id!r} is {run.status} and waits for nothing")
        return await self._go(journal, run_id, owner, run.thread_id, positional, named, on_event)

    async def get(self, run_id: str, *, memory: Memory | None = None, resource: str) -> WorkflowResult | None:
        """Where a run stands, or `None` for an unknown one. `pending` has no schemas: those are code."""
        memory = memory or self.memory
        if memory is None:
            raise ConfigurationError(f"workflow {self.name!r} has no memory; give get(memory=...)")
        run = await memory.store.get_run(check_id("resource", resource), check_id("run", run_id))
        if run is None or not self._is_mine(run):
            return None
        return self._stored(run)

    async def cancel(
        self, run_id: str, *, memory: Memory | None = None, resource: str, reason: str | None = None
    ) -> WorkflowResult:
        """End a run that waits, or whose process died, as "aborted"; `reason` is kept as its `error`.

        Raises `NotFoundError` for an unknown run or another owner's, and `ConflictError` for one that is
        under way or over.
        """
        memory = memory or self.memory
        if memory is None:
            raise ConfigurationError(f"workflow {self.name!r} has no memory; give cancel(memory=...)")
        owner = check_id("resource", resource)
        run = await memory.store.get_run(owner, check_id("run", run_id))
        if run is None or not self._is_mine(run):
            raise NotFoundError(f"workflow {self.name!r} has no run {run_id!r}")
        if run.status == "running" and not has_lapsed(run, memory.now()):
            raise ConflictError(f"workflow run {run_id!r} is under way")
        if run.status not in ("running", "suspended"):
            raise ConflictError(f"workflow run {run_id!r} is {run.status} already")
        error = "the run was cancelled" if reason is None else check_text("reason", reason)
        await Journal.of(memory, owner, run).write("aborted", finish_reason="aborted", error=error)
        result = await self.get(run_id, memory=memory, resource=owner)
        if result is None:
            raise NotFoundError(f"workflow {self.name!r} has no run {run_id!r}")
        return result

    def tool(self) -> Tool:
        """This workflow as a tool called `workflow-<name>`, for `Agent(tools=[...])`."""
        from .tool import workflow_tool

        return workflow_tool(self)

    run_sync = sync_twin(run)
    resume_sync = sync_twin(resume)
    get_sync = sync_twin(get)
    cancel_sync = sync_twin(cancel)

    # -- one run -------------------------------------------------------------------------------------

    async def _go(
        self,
        journal: Journal,
        run_id: str,
        owner: str | None,
        thread_id: str | None,
        positional: Sequence[Any],
        named: Mapping[str, Any],
        on_event: OnWorkflowEvent | None,
    ) -> WorkflowResult:
        about = {
            "gen_ai.operation.name": "invoke_workflow",
            "gen_ai.workflow.name": self.name,
            "gen_ai.conversation.id": thread_id,
            "threadmark.resource.id": owner,
            "threadmark.run.id": run_id,
        }
        context = self._context(journal, run_id, owner, thread_id, on_event)
        with span(f"invoke_workflow {self.name}", about, origin=journal.origin) as made:
            journal.origin = journal.origin or made.traceparent
            result = await self._traced(context, journal, positional, named)
            made.set({"threadmark.run.status": result.status})
        return result

    async def _traced(
        self,
        context: WorkflowContext,
        journal: Journal,
        positional: Sequence[Any],
        named: Mapping[str, Any],
    ) -> WorkflowResult:
        await journal.write("running")  # whoever comes second gets a ConflictError here
        context.tell("workflow-start", input=journal.input)
        async with _kept_alive(journal):
            status, output, failure = await self._call(context, positional, named)
        error = None if failure is None else describe_error(failure)
        plain: Json = None
        if status == "finished":
            try:
                plain = self._output.dump(output)
                output = self._output.restore(plain)
            except ValidationError as invalid:
                failure = ConfigurationError(
                    f"workflow {self.name!r} gave what is not {self._output}: {invalid}"
                )
                status, error, output = "failed", str(failure), None
        if status == "suspended" and context.resource_id is None:
            failure = ConfigurationError(
                f"workflow {self.name!r} cannot suspend without a memory, a resource and a thread"
            )
            status, error = "failed", str(failure)
        try:
            if isinstance(failure, Lost):
                if failure.ours:  # code that fits can go on with it at once
                    await journal.write("running", error=error, lease=0.0)
                failure = failure.error
            else:
                await self._end(journal, status, error, plain)
        finally:
            journal.close()
        result = WorkflowResult(
            run_id=context.run_id,
            workflow=self.name,
            status=status,
            output=output,
            steps=dict(journal.steps),
            pending=context.pending if status == "suspended" else (),
            error=error,
        )
        context.tell("workflow-finish", status=status, output=plain, error=error)
        if failure is not None:
            if isinstance(failure, ThreadmarkError):
                failure.result = result
            raise failure
        return result

    async def _call(
        self, context: WorkflowContext, positional: Sequence[Any], named: Mapping[str, Any]
    ) -> tuple[Status, Any, BaseException | None]:
        """How the function ends. Steps that its own tasks still execute are waited for, and recorded."""
        status, output, failure = await self._ending(context, positional, named)
        try:
            await context.end(wait=status != "aborted")
        except asyncio.CancelledError as error:
            return "aborted", None, error
        return status, output, failure

    async def _ending(
        self, context: WorkflowContext, positional: Sequence[Any], named: Mapping[str, Any]
    ) -> tuple[Status, Any, BaseException | None]:
        try:
            return "finished", await self.function(context, *positional, **named), None
        except (Lost, Bail, Suspended) as signal:
            return ended_by(signal)
        except asyncio.CancelledError as error:
            return "aborted", None, error
        except Exception as error:
            return "failed", None, error
        except BaseExceptionGroup as group:  # of a task group
            for kind in (Lost, Exception, Bail, Suspended):
                found = first_of(group, kind)
                if isinstance(found, Exception):
                    return "failed", None, group.subgroup(Exception)
                if found is not None:
                    return ended_by(found)
            raise

    async def _end(self, journal: Journal, status: Status, error: str | None, output: Json) -> None:
        reason: Any = {"finished": "stop", "suspended": "suspended", "failed": "error"}.get(status, "aborted")
        write = journal.write(status, finish_reason=reason, error=error, output=output)
        await asyncio.shield(asyncio.ensure_future(write))

    async def _answer(
        self,
        journal: Journal,
        run: Run,
        positional: Sequence[Any],
        named: Mapping[str, Any],
        data: Any,
        name: str | None,
    ) -> None:
        """Put the answer into the journal. What it has to be only the code knows, so that is called first."""
        waiting = [step.name for step in journal.steps.values() if step.status == "suspended"]
        if data is NO_DATA:
            raise ValidationError(
                f"run {run.id!r} waits for an answer to {', '.join(waiting)}; give it as data"
            )
        if not waiting:
            raise ConflictError(f"run {run.id!r} waits for nothing; go on with it with resume(run_id)")
        if name is None:
            if len(waiting) > 1:
                raise ValidationError(f"run {run.id!r} waits for {', '.join(waiting)}; name one")
            name = waiting[0]
        if name not in waiting:
            raise NotFoundError(f"run {run.id!r} waits for no {name!r}")
        shape = await self._shape_of(journal, run, positional, named, name)
        plain = Shape(None).dump(data)
        shape.restore(plain)
        journal.answer(name, plain)

    async def _shape_of(
        self, journal: Journal, run: Run, positional: Sequence[Any], named: Mapping[str, Any], name: str
    ) -> Shape:
        """The type of an answer, found by calling the function up to the pause; no step is executed."""
        context = self._context(journal.replay(), run.id, journal.owner, run.thread_id, None)
        _, _, failure = await self._call(context, positional, named)
        try:
            return context.shape_of(name)
        except KeyError:
            raise ConflictError(
                f"workflow {self.name!r} has changed: its run {run.id!r} does not come to {name!r} any more"
            ) from failure

    def _context(
        self,
        journal: Journal,
        run_id: str,
        owner: str | None,
        thread_id: str | None,
        on_event: OnWorkflowEvent | None,
    ) -> WorkflowContext:
        return WorkflowContext(
            journal,
            run_id=run_id,
            workflow=self.name,
            resource_id=owner,
            thread_id=thread_id,
            on_event=on_event,
        )

    # -- arguments -----------------------------------------------------------------------------------

    def _place(
        self, memory: Memory | None, resource: str | None, thread: str | None
    ) -> tuple[Memory | None, str | None, str | None]:
        memory = memory or self.memory
        if resource is None and thread is None:
            return None, None, None
        if memory is None:
            raise ConfigurationError(f"workflow {self.name!r} has no memory; give run(memory=...)")
        if resource is None or thread is None:
            raise ValidationError("a recorded run needs resource and thread together")
        return memory, check_id("resource", resource), check_id("thread", thread)

    def _checked(self, inputs: Mapping[str, Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        from ..agents.tools import InvalidArgumentsError

        try:
            return self.validate(dict(inputs))
        except InvalidArgumentsError as error:
            raise ValidationError(f"workflow {self.name!r}: {error}") from None

    def _is_mine(self, run: Run) -> bool:
        return run.agent == f"{AGENT}{self.name}" and "workflow" in (run.state or {})

    def _check_same(self, run: Run, inputs: Json, thread_id: str | None) -> None:
        same = self._is_mine(run) and run.thread_id == thread_id
        if not same or (run.state or {}).get("input") != inputs:
            raise ConflictError(f"run {run.id!r} was made for something else; give this one another run_id")

    def _stored(self, run: Run) -> WorkflowResult:
        state: Mapping[str, Any] = run.state or {}
        steps = {
            name: WorkflowStep(name=name, **{k: v for k, v in step.items() if k != "arguments"})
            for name, step in (state.get("steps") or {}).items()
        }
        return WorkflowResult(
            run_id=run.id,
            workflow=self.name,
            status=run.status,
            output=self._output.restore(state.get("output")) if run.status == "finished" else None,
            steps=steps,
            pending=tuple(
                [
                    WorkflowPause(name=step.name, payload=step.payload)
                    for step in steps.values()
                    if step.status == "suspended" and run.status == "suspended"
                ]
            ),
            error=run.error,
        )


@overload
def workflow(function: Callable[..., Any], /) -> Workflow: ...
@overload
def workflow(
    *, name: str | None = None, description: str | None = None, memory: Memory | None = None
) -> Callable[[Callable[..., Any]], Workflow]: ...
def workflow(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    memory: Memory | None = None,
) -> Workflow | Callable[[Callable[..., Any]], Workflow]:
    """Make a workflow of an async function, as a decorator with or without arguments.

        @workflow(memory=memory)
        async def refund(ctx: WorkflowContext, order: str) -> str:
            amount = await ctx.step("look up", look_up, order)
            if amount > 100:
                await ctx.suspend("manager", {"order": order, "amount": amount}, answer=Approval)
            return await ctx.step("pay back", pay_back, order, amount, once=True)

    The first parameter gets the `WorkflowContext`; the others are its input, typed and described like a
    tool's. Branches, loops and error handling are Python's own.

    Args:
        name: Default: the function's name.
        description: Default: the docstring.
        memory: Where its runs are recorded; may be given with each call as well.

    Raises `ConfigurationError` for a function that cannot be described.
    """
    if function is None:
        return lambda inner: Workflow(inner, name=name, description=description, memory=memory)
    return Workflow(function, name=name, description=description, memory=memory)


def _check_listener(on_event: Any) -> None:
    if on_event is not None and (not callable(on_event) or inspect.iscoroutinefunction(on_event)):
        raise ConfigurationError(f"on_event must be a plain function, not {on_event!r}")


@contextlib.asynccontextmanager
async def _kept_alive(journal: Journal) -> AsyncGenerator[None, None]:
    beat = asyncio.ensure_future(journal.keep_alive())
    try:
        yield
    finally:
        beat.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beat

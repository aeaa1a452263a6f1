"""What a workflow's function works with: steps that are recorded, and pauses that outlive the process."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

from .._errors import ConfigurationError, ConflictError, ValidationError, WorkflowStepError
from .._ids import check_count
from .._tracing import span
from .._types import Json
from ..agents.calls import describe_error
from .events import OnWorkflowEvent, WorkflowEvent
from .journal import DIED, Journal, WorkflowPause, WorkflowStep
from .signals import Bail, Lost, Suspended
from .values import Shape
from .work import as_function, check_seconds, digest_of, outcome_of, result_type

log = logging.getLogger("threadmark.workflows")

_inside: contextvars.ContextVar[Any] = contextvars.ContextVar("threadmark_workflow_step", default=None)
"""The context whose step is being executed here."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a run that waits was asked in this process."""

    pause: WorkflowPause
    shape: Shape


class WorkflowContext:
    """The first argument of a workflow's function.

    What the function does must be the same each time it is called with the same results of its steps: it is
    called again from the start when the run goes on. Whatever differs (the time, a random number, a file)
    belongs into a step.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        run_id: str,
        workflow: str,
        resource_id: str | None,
        thread_id: str | None,
        on_event: OnWorkflowEvent | None,
    ) -> None:
        self.run_id = run_id
        self.workflow = workflow
        self.resource_id = resource_id
        self.thread_id = thread_id
        self._journal = journal
        self._on_event = on_event
        self._used: dict[str, int] = {}
        self._keys: set[str] = set()
        self._asked: dict[str, _Asked] = {}
        self._open: set[asyncio.Future[None]] = set()  # steps that are being executed
        self._ended = False

    # -- steps ---------------------------------------------------------------------------------------

    def step(
        self,
        name: str,
        work: Any,
        /,
        *args: Any,
        retries: int = 0,
        delay: float = 0.0,
        timeout: float | None = None,
        once: bool = False,
        returns: Any = None,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, Any]:
        """Call `work(*args, **kwargs)` once in the run's life, and give what it gave. Await it.

        Args:
            name: Identifies the step in the run; a name used again gets a number, in the order of the calls.
            work: A function, plain or async; a `Tool`; an agent, whose `generate` is called and whose text
                (with `output`, its object) is given; or another workflow.
            retries: How often it is called again after it raised.
            delay: Seconds before each of these.
            timeout: Seconds that each call may take. A plain function cannot be stopped: it goes on in its
                thread, and nobody hears of its end.
            once: Never call it a second time, not even if the process died meanwhile: the run then goes on
                with a `WorkflowStepError` that says that the outcome is unknown. Otherwise a step that was
                under way when the process died is executed again. Not together with `retries`.
            returns: The type of what it gives; default: the annotation of its result. What is given has been
                through JSON, so it is the same now and after a restart.

        Raises `WorkflowStepError` when it failed, also after a restart; `ConfigurationError` for a type that
        cannot go through JSON, and inside of another step. If the run recorded this step for other arguments,
        the function ends here, and whoever called it gets a `ConflictError`.
        """
        check_count("retries", retries)
        delay = check_seconds("delay", delay, least=0.0)
        if timeout is not None:
            timeout = check_seconds("timeout", timeout)
        if once and retries:
            raise ConfigurationError(f"step {name!r} is to run once and to be retried; choose one")
        key = self._key(name)
        call, shape = as_function(work, key, self.run_id, kwargs), Shape(returns or result_type(work, kwargs))
        digest = digest_of(args, kwargs)
        run = functools.partial(call, *args, **kwargs)
        execute = functools.partial(
            self._execute, key, run, shape, digest, retries, delay, timeout, once=once
        )
        return self._step(key, shape, digest, execute)

    async def _step(
        self, key: str, shape: Shape, arguments: str, execute: Callable[[], Awaitable[Any]]
    ) -> Any:
        recorded = self._expect(key, arguments)
        if recorded is not None and recorded.status == "done":
            return shape.restore(recorded.output)
        if recorded is not None and recorded.status == "failed":
            raise WorkflowStepError(recorded.error or "", step=key)
        if recorded is not None and recorded.status == "begun":
            await self._fail(key, arguments, DIED, None)
        shape.check()
        if self._ended:  # somebody's task of its own; the step will be executed when the run goes on
            raise Suspended
        done = asyncio.get_running_loop().create_future()
        self._open.add(done)
        try:
            return await execute()
        finally:
            self._open.discard(done)
            done.set_result(None)

    async def _execute(
        self,
        key: str,
        call: Callable[[], Any],
        shape: Shape,
        arguments: str,
        retries: int,
        delay: float,
        timeout: float | None,
        *,
        once: bool,
    ) -> Any:
        if once:
            await self._record(WorkflowStep(name=key, status="begun"), arguments)
        self._tell("workflow-step-start", key)
        about = {"threadmark.workflow.name": self.workflow, "threadmark.workflow.step": key}
        while True:
            limit = asyncio.timeout(timeout)
            try:
                with span(f"workflow_step {key}", about):
                    async with limit:
                        value = await self._call(call, key)
                break
            except Exception as error:
                failure, reason = error, describe_error(error)
                if limit.expired() and isinstance(error, TimeoutError):
                    reason = f"it took longer than {timeout:g} seconds"
            if retries <= 0:
                await self._fail(key, arguments, reason, failure)
            retries -= 1
            await asyncio.sleep(delay)
        try:
            plain = shape.dump(value)
            restored = shape.restore(plain)
        except ValidationError as error:
            await self._fail(key, arguments, f"it gave what is not {shape}: {error}", error)
        await self._record(WorkflowStep(name=key, status="done", output=plain), arguments)
        self._tell("workflow-step-result", key, output=plain)
        return restored

    async def _call(self, call: Callable[[], Any], key: str) -> Any:
        before = _inside.set(self)
        try:
            return await outcome_of(call, key)
        finally:
            _inside.reset(before)

    async def _fail(self, key: str, arguments: str, error: str, cause: Exception | None) -> NoReturn:
        await self._record(WorkflowStep(name=key, status="failed", error=error), arguments)
        self._tell("workflow-step-error", key, error=error)
        raise WorkflowStepError(error, step=key) from cause

    def _expect(self, key: str, arguments: str) -> WorkflowStep | None:
        if self._journal.lost is not None:
            raise Lost(self._journal.lost)
        try:
            return self._journal.expect(key, arguments)
        except ConflictError as error:
            raise Lost(error, ours=True) from None

    async def _record(self, step: WorkflowStep, arguments: str) -> None:
        try:
            await self._journal.record(step, arguments)
        except ConflictError as error:
            raise Lost(error) from None

    async def end(self, *, wait: bool) -> None:
        """The function has ended: no step begins any more. `wait` for those that somebody's tasks execute."""
        self._ended = True
        while wait and self._open:
            await asyncio.wait(list(self._open))

    async def parallel(self, *steps: Awaitable[Any]) -> list[Any]:
        """Wait for all of `steps`, which run side by side, and give their results in order.

        If one fails the others are waited for, and then the first failure is raised. If one suspends the
        others are waited for and recorded, and then the run waits, for all that suspended.
        """
        self._check_outside()
        for step in steps:
            if not inspect.isawaitable(step):
                raise ValidationError(f"parallel takes steps, as ctx.step(...) gives them, not {step!r}")
        done = await asyncio.gather(*[_settled(step) for step in steps])
        for kind in (Lost, Exception, BaseException):
            for outcome in done:
                if isinstance(outcome, _Raised) and isinstance(outcome.error, kind):
                    raise outcome.error
        return list(done)

    async def foreach(
        self, name: str, work: Any, items: Iterable[Any], /, *, concurrency: int = 1, **options: Any
    ) -> list[Any]:
        """A step `name[i]` for each item, at most `concurrency` at once; `options` are those of `step`."""
        check_count("concurrency", concurrency, least=1)
        gate = asyncio.Semaphore(concurrency)

        async def one(step: Awaitable[Any]) -> Any:
            async with gate:
                return await step

        return await self.parallel(
            *[
                one(self.step(f"{name}[{index}]", work, item, **options))
                for index, item in enumerate(list(items))
            ]
        )

    # -- ends and pauses -----------------------------------------------------------------------------

    def suspend(self, name: str, payload: Json = None, *, answer: Any = None) -> Coroutine[Any, Any, Any]:
        """Wait for an answer to `payload`, in this process or, days later, in another one. Await it.

        `answer` is the type of the answer, anything Pydantic understands; default: any JSON. The run ends
        here as "suspended"; `workflow.resume(run_id, data)` goes on with it, and this gives the answer.
        """
        key, shape = self._key(name), Shape(answer)
        shape.check()
        plain = Shape(None).dump(payload)
        return self._suspend(key, plain, shape)

    async def _suspend(self, key: str, payload: Json, shape: Shape) -> Any:
        digest = digest_of((payload,), {})
        recorded = self._expect(key, digest)
        if recorded is not None and recorded.status == "answered":
            return shape.restore(recorded.output)
        self._asked[key] = _Asked(WorkflowPause(name=key, payload=payload, schema=shape.json_schema), shape)
        if recorded is None:
            await self._record(WorkflowStep(name=key, status="suspended", payload=payload), digest)
            self._tell("workflow-step-suspended", key, payload=payload, schema=shape.json_schema)
        raise Suspended

    def bail(self, output: Any = None) -> NoReturn:
        """End the run here as a success, with `output`."""
        self._check_outside()
        raise Bail(output)

    @property
    def pending(self) -> tuple[WorkflowPause, ...]:
        """What the run waits for."""
        return tuple([asked.pause for asked in self._asked.values()])

    def shape_of(self, name: str) -> Shape:
        """What the answer to a pause has to be."""
        return self._asked[name].shape

    # -- keeping -------------------------------------------------------------------------------------

    def _key(self, name: str) -> str:
        """What identifies a step or pause in the run."""
        self._check_outside()
        if not isinstance(name, str) or not name:
            raise ValidationError(f"a step needs a name, not {name!r}")
        while True:
            count = self._used[name] = self._used.get(name, 0) + 1
            key = name if count == 1 else f"{name}#{count}"
            if key not in self._keys:  # as another step's own name
                self._keys.add(key)
                return key

    def _check_outside(self) -> None:
        # When the run goes on a recorded step is not executed, so nothing in it would be found again.
        if _inside.get() is self:
            raise ConfigurationError(
                "a step cannot have steps or pauses; call them in the workflow's function"
            )

    def _tell(self, kind: Any, step: str | None, **data: Json) -> None:
        if self._on_event is None:
            return
        event = WorkflowEvent(type=kind, run_id=self.run_id, workflow=self.workflow, step=step, data=data)
        try:
            self._on_event(event)
        except Exception:  # a listener must not change what it listens to
            log.exception("on_event of workflow %r failed, run %r", self.workflow, self.run_id)

    def tell(self, kind: Any, **data: Json) -> None:
        """Tell an event of the run; what is `None` is left out."""
        self._tell(kind, None, **{key: value for key, value in data.items() if value is not None})


@dataclass(frozen=True, slots=True)
class _Raised:
    error: BaseException


async def _settled(step: Awaitable[Any]) -> Any:
    try:
        return await step
    except asyncio.CancelledError:
        raise
    except (Exception, Lost, Suspended, Bail) as error:
        return _Raised(error)

"""What a workflow's function works with: steps that are recorded, and pauses that outlive the process."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import typing
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from .._codec import to_json
from .._errors import ConfigurationError, ThreadmarkError, ValidationError, WorkflowStepError
from .._ids import check_count
from .._sync import in_thread
from .._tracing import span
from .._types import Json
from .events import OnWorkflowEvent, WorkflowEvent
from .journal import Journal, WorkflowPause, WorkflowStep
from .values import Shape

T = TypeVar("T")


class Suspended(BaseException):
    """Ends the function of a run that waits for an answer. Not an `Exception`, so that nobody catches it."""


class Bail(BaseException):
    """Ends the function of a run early, as a success."""

    def __init__(self, output: Any) -> None:
        super().__init__("a workflow ended early")
        self.output = output


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
        self._asked: dict[str, _Asked] = {}

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
            timeout: Seconds that each call may take.
            once: Never call it a second time, not even if the process died meanwhile: the run then goes on
                with a `WorkflowStepError` that says that the outcome is unknown. Otherwise a step that was
                under way when the process died is executed again.
            returns: The type of what it gives; default: the annotation of its result. What is given has been
                through JSON, so it is the same now and after a restart.

        Raises `WorkflowStepError` when it failed, also after a restart; `ConflictError` if the run recorded
        this step for other arguments.
        """
        check_count("retries", retries)
        key = self._key(name)
        call, shape = _callable(work, key, self.run_id, kwargs), Shape(returns or _result_type(work, kwargs))
        digest = _digest(args, kwargs)
        run = functools.partial(call, *args, **kwargs)
        return self._step(key, run, shape, digest, retries, delay, timeout, once=once)

    async def _step(
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
        recorded = self._journal.expect(key, arguments)
        if recorded is not None and recorded.status == "done":
            return shape.restore(recorded.output)
        if recorded is not None and recorded.status == "failed":
            raise WorkflowStepError(recorded.error or "", step=key)
        if recorded is not None and recorded.status == "begun":
            await self._fail(key, arguments, "the process died while it ran; its outcome is unknown", None)
        if once:
            await self._journal.record(WorkflowStep(name=key, status="begun"), arguments)
        self._tell("workflow-step-start", key)
        about = {"threadmark.workflow.name": self.workflow, "threadmark.workflow.step": key}
        while True:
            try:
                with span(f"workflow_step {key}", about):
                    async with asyncio.timeout(timeout):
                        value = await _outcome(call, key)
                break
            except ThreadmarkError as error:
                failure: Exception = error
            except Exception as error:
                failure = error
            if retries <= 0 or once:
                await self._fail(key, arguments, f"{type(failure).__name__}: {failure}", failure)
            retries -= 1
            await asyncio.sleep(delay)
        try:
            plain = shape.dump(value)
        except ValidationError as error:
            await self._fail(key, arguments, f"it gave what is not JSON: {error}", error)
        await self._journal.record(WorkflowStep(name=key, status="done", output=plain), arguments)
        self._tell("workflow-step-result", key, output=plain)
        return shape.restore(plain)

    async def _fail(self, key: str, arguments: str, error: str, cause: Exception | None) -> NoReturn:
        await self._journal.record(WorkflowStep(name=key, status="failed", error=error), arguments)
        self._tell("workflow-step-error", key, error=error)
        raise WorkflowStepError(error, step=key) from cause

    async def parallel(self, *steps: Awaitable[Any]) -> list[Any]:
        """Wait for all of `steps`, which run side by side, and give their results in order.

        If one fails the others are waited for, and then the first failure is raised. If one suspends the
        others are waited for and recorded, and then the run waits, for all that suspended.
        """
        done = await asyncio.gather(*[_settled(step) for step in steps])
        for kind in (Exception, BaseException):
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
        plain = Shape(None).dump(payload)
        return self._suspend(key, plain, shape)

    async def _suspend(self, key: str, payload: Json, shape: Shape) -> Any:
        digest = _digest((payload,), {})
        recorded = self._journal.expect(key, digest)
        if recorded is not None and recorded.status == "answered":
            return shape.restore(recorded.output)
        self._asked[key] = _Asked(WorkflowPause(name=key, payload=payload, schema=shape.json_schema), shape)
        if recorded is None:
            await self._journal.record(WorkflowStep(name=key, status="suspended", payload=payload), digest)
            self._tell("workflow-step-suspended", key, payload=payload, schema=shape.json_schema)
        raise Suspended

    def bail(self, output: Any = None) -> NoReturn:
        """End the run here as a success, with `output`."""
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
        if not isinstance(name, str) or not name:
            raise ValidationError(f"a step needs a name, not {name!r}")
        count = self._used[name] = self._used.get(name, 0) + 1
        return name if count == 1 else f"{name}#{count}"

    def _tell(self, kind: Any, step: str, **data: Json) -> None:
        if self._on_event is not None:
            self._on_event(
                WorkflowEvent(type=kind, run_id=self.run_id, workflow=self.workflow, step=step, data=data)
            )


@dataclass(frozen=True, slots=True)
class _Raised:
    error: BaseException


async def _settled(step: Awaitable[Any]) -> Any:
    try:
        return await step
    except asyncio.CancelledError:
        raise
    except (Exception, Suspended, Bail) as error:
        return _Raised(error)


async def _outcome(call: Callable[[], Any], key: str) -> Any:
    """What a call gives; one that is not a coroutine function runs in a thread."""
    function = call.func if isinstance(call, functools.partial) else call
    if inspect.iscoroutinefunction(function):
        return await call()
    made = await in_thread(call, f"threadmark-step-{key[:40]}")
    return await made if inspect.isawaitable(made) else made


def _callable(work: Any, key: str, run_id: str, kwargs: dict[str, Any]) -> Callable[..., Any]:
    """`work` as a function."""
    if hasattr(work, "generate") and hasattr(work, "stream"):

        async def ask(*args: Any, **options: Any) -> Any:
            if "resource" in options:
                options.setdefault("run_id", f"{run_id}/{key}")
            result = await work.generate(*args, **options)
            if result.finish_reason == "suspended":
                raise ConfigurationError("an agent that waits for a person cannot be a step; suspend the run")
            if result.tripwire is not None:
                raise WorkflowStepError(f"a processor stopped the agent: {result.tripwire.reason}", step=key)
            return result.text if result.object is None else result.object

        return ask
    if hasattr(work, "run") and hasattr(work, "resume") and hasattr(work, "definition"):

        async def nest(**inputs: Any) -> Any:
            result = await work.run(**inputs)
            if result.status == "suspended":
                raise ConfigurationError("a workflow that suspends cannot be a step")
            return result.output

        return nest
    function = getattr(work, "function", work)
    if not callable(function):
        raise ValidationError(f"step {key!r} needs a function, not {work!r}")
    return function  # type: ignore[no-any-return]


def _result_type(work: Any, kwargs: dict[str, Any]) -> Any:
    if hasattr(work, "generate"):
        output = kwargs.get("output") or getattr(work, "output", None)
        return getattr(output, "schema", output)
    if hasattr(work, "definition") and hasattr(work, "returns"):
        return work.returns
    function = getattr(work, "function", work)
    try:
        return typing.get_type_hints(function, include_extras=True).get("return")
    except (TypeError, NameError, AttributeError):
        return None


def _digest(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """What identifies the arguments, as far as they are JSON."""
    from pydantic_core import to_jsonable_python

    try:
        plain = to_jsonable_python([args, kwargs], serialize_unknown=False)
        text = to_json(plain, "arguments")
    except (ValueError, ThreadmarkError):
        return "-"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

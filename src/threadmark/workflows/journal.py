"""The record of a workflow's run: what each step gave, kept in the run's row after every one of them.

A run goes on by calling its function again from the start: a step that is in the journal gives what it gave
then, without being executed. So the function may do anything with the values, as long as what it does
outside of its steps is the same each time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from .._errors import ConflictError, StoreError
from .._types import FinishReason, Json, Run, RunStatus
from ..memory import runs
from ..stores.base import RunWrite, TurnWrite

if TYPE_CHECKING:
    from ..memory import Memory

log = logging.getLogger("threadmark.workflows")

DIED = "the process died while it ran; its outcome is unknown"

AGENT: Final = "workflow:"
"""What stands before a workflow's name in the `agent` of its runs: an agent of that name has other runs."""

StepStatus = Literal["begun", "done", "failed", "suspended", "answered"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowStep:
    """What is recorded of one step.

    `status` is "done" with an `output`; "failed" with an `error`; "suspended" with a `payload`; "answered"
    with the answer as `output`; or "begun", for a step that may run only once and has not ended.
    """

    name: str
    status: StepStatus
    output: Json = None
    error: str | None = None
    payload: Json = None

    def to_dict(self) -> dict[str, Json]:
        """As JSON; what is `None` is left out."""
        values = {"status": self.status, "output": self.output, "error": self.error, "payload": self.payload}
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowPause:
    """What a suspended run waits for: the answer to `payload`, of the JSON schema `schema`."""

    name: str
    payload: Json = None
    schema: Mapping[str, Json] | None = None


class Journal:
    """The steps of one run, and the row that they are kept in; without a memory they are kept nowhere."""

    def __init__(
        self, memory: Memory | None, owner: str, thread_id: str, workflow: str, run_id: str, input: Json
    ) -> None:
        self.steps: dict[str, WorkflowStep] = {}
        self.started = memory.now() if memory is not None else None
        self._arguments: dict[str, str] = {}
        self._memory = memory
        self.owner = owner
        self._thread_id = thread_id
        self._workflow = workflow
        self._run_id = run_id
        self._version = 0
        self._writing = asyncio.Lock()
        self.input = input
        self.origin: str | None = None
        """The `traceparent` of the span that began the run."""
        self.lost: ConflictError | None = None
        """Why the run is this process's no more."""

    @classmethod
    def of(cls, memory: Memory, owner: str, run: Run) -> Journal:
        """The journal of a stored run."""
        state: Mapping[str, Any] = run.state or {}
        name = run.agent.removeprefix(AGENT)
        self = cls(memory, owner, run.thread_id, name, run.id, state.get("input"))
        self.started, self._version = run.started_at, run.version
        self.origin = state.get("trace")
        for name, step in (state.get("steps") or {}).items():
            values = dict(step)
            self._arguments[name] = values.pop("arguments", "")
            self.steps[name] = WorkflowStep(name=name, **values)
        return self

    def expect(self, name: str, arguments: str) -> WorkflowStep | None:
        """What is recorded of a step that is about to be executed.

        Raises `ConflictError` if it was recorded with other arguments: then the code has changed, or does
        not do the same each time, and what is recorded answers another question.
        """
        recorded = self.steps.get(name)
        if recorded is not None and self._arguments[name] != arguments:
            raise ConflictError(
                f"step {name!r} of workflow run {self._run_id!r} was recorded with other arguments: "
                "the workflow has changed since, or depends on something outside of its steps"
            )
        return recorded

    async def record(self, step: WorkflowStep, arguments: str) -> None:
        """Keep a step, before anything goes on from it."""
        self.steps[step.name] = step
        self._arguments[step.name] = arguments
        await self.write("running")

    def answer(self, name: str, data: Json) -> None:
        """Put the answer to a pause in its place; it is kept when the run goes on."""
        self.steps[name] = WorkflowStep(name=name, status="answered", output=data)

    def replay(self) -> _Replay:
        """A copy that nothing can be added to."""
        copy = _Replay(None, self.owner, self._thread_id, self._workflow, self._run_id, self.input)
        copy.steps, copy._arguments = dict(self.steps), dict(self._arguments)
        return copy

    async def write(
        self,
        status: RunStatus,
        *,
        finish_reason: FinishReason | None = None,
        error: str | None = None,
        output: Json = None,
        lease: float | None = None,
    ) -> None:
        """Write the run's row. Raises `ConflictError` if another process has gone on with the run.

        `lease` is the seconds for which a running run is this process's; default: `runs.LEASE`.
        """
        if self._memory is None:
            return
        async with self._writing:  # parallel steps end at once
            if self.lost is not None:
                raise self.lost
            try:
                await self._write(self._memory, status, finish_reason, error, output, lease)
            except ConflictError as conflict:
                self.lost = conflict
                raise

    async def _write(
        self,
        memory: Memory,
        status: RunStatus,
        finish_reason: FinishReason | None,
        error: str | None,
        output: Json,
        lease: float | None,
    ) -> None:
        now = memory.now()
        state: dict[str, Json] = {
            "workflow": self._workflow,
            "input": self.input,
            "steps": {
                name: {**step.to_dict(), "arguments": self._arguments[name]}
                for name, step in self.steps.items()
            },
        }
        if self.origin is not None:
            state["trace"] = self.origin
        if status == "finished":
            state["output"] = output
        over = status not in ("running", "suspended")
        receipt = await memory.store.write_turn(
            self.owner,
            TurnWrite(
                thread_id=self._thread_id,
                now=now,
                run=RunWrite(
                    id=self._run_id,
                    agent=f"{AGENT}{self._workflow}",
                    status=status,
                    finish_reason=finish_reason,
                    error=error,
                    started_at=self.started or now,
                    finished_at=now if over else None,
                    if_version=self._version,
                    state=state,
                    expires_at=now + timedelta(seconds=runs.LEASE if lease is None else lease)
                    if status == "running"
                    else None,
                ),
            ),
        )
        assert receipt.run is not None
        self._version = receipt.run.version

    def close(self) -> None:
        """The run's end is written: a step that ends later is not recorded."""
        self.lost = self.lost or ConflictError(f"workflow run {self._run_id!r} has ended")

    async def keep_alive(self) -> None:
        """Renew the run's lease for as long as this runs, or until the run is somebody else's."""
        if self._memory is None:
            return
        while self.lost is None:
            await asyncio.sleep(runs.LEASE / 4)
            try:
                async with self._writing:
                    until = self._memory.now() + timedelta(seconds=runs.LEASE)
                    kept = await self._memory.store.renew_run(self.owner, self._run_id, self._version, until)
            except StoreError as error:  # there is time for more tries
                name = type(error).__name__
                log.warning("could not renew the lease of workflow run %r: %s", self._run_id, name)
                continue
            if not kept:
                self.lost = ConflictError(f"workflow run {self._run_id!r} was gone on with by somebody else")


class _Replay(Journal):
    """A journal in which the function is called only to see where it waits."""

    def expect(self, name: str, arguments: str) -> WorkflowStep | None:
        recorded = super().expect(name, arguments)
        if recorded is None:
            raise ConflictError(f"step {name!r} is not recorded")
        if recorded.status == "begun":
            return WorkflowStep(name=name, status="failed", error=DIED)
        return recorded

    async def record(self, step: WorkflowStep, arguments: str) -> None:
        raise ConflictError(f"step {step.name!r} is not recorded")

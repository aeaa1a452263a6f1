"""The runs of an agent that wait: listed, looked at, and given up."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .._errors import ConflictError, NotFoundError, ValidationError
from .._ids import check_id, check_paging, check_text, utc
from .._sync import sync_twin
from .._types import Part, Run, RunStatus, ToolPart
from ..memory.runs import is_as_stored, is_waiting
from .below import pending_now, source_below
from .deciding import check_open, find_run, memories, owner_of, thread_of
from .options import TurnSource
from .pending import SuspendedRun, SuspendedRunPage, pending_calls, suspended_run
from .records import restored_context
from .request_context import RequestContext

if TYPE_CHECKING:
    from .agent import Agent

CANCELLED = "the run was cancelled"
LOST = "its message was deleted"


class AgentRuns:
    """`agent.runs`: this agent's runs that wait for a person, of one owner at a time."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def suspended(
        self,
        *,
        resource: str | None = None,
        thread: str | None = None,
        request_context: RequestContext | None = None,
        memory: TurnSource | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        page: int = 0,
        per_page: int | None = 100,
    ) -> SuspendedRunPage:
        """A page of runs that wait, newest first, of one owner and perhaps one thread.

        `since` and `until` (not included) are about when they started. Runs whose time is up are ended, and
        those whose process died are made ready to go on with, before they are listed.
        """
        number, size = check_paging(page, per_page)
        owner = owner_of(resource, request_context)
        source = await self._memory({"memory": memory, "request_context": request_context})
        thread = thread_of(request_context) or thread
        if thread is not None:
            check_id("thread", thread)
        await self._sweep(source, owner, thread)
        while True:
            found = await source.open_runs.page(
                owner,
                self._agent.name,
                "suspended",
                thread_id=thread,
                since=None if since is None else utc("since", since),
                until=None if until is None else utc("until", until),
                page=number,
                per_page=size,
            )
            asked = await source.open_runs.parts(owner, found.runs)
            lost = [run for run in found if run.id not in asked]
            if not lost:
                break
            for run in lost:
                await self._end_lost(source, owner, run)
        return SuspendedRunPage(
            runs=tuple([await self._seen(source, owner, run, asked.get(run.id, ())) for run in found]),
            total=found.total,
            page=found.page,
            per_page=found.per_page,
            has_more=found.has_more,
        )

    async def get(
        self,
        run_id: str,
        *,
        resource: str | None = None,
        request_context: RequestContext | None = None,
        memory: TurnSource | None = None,
    ) -> SuspendedRun:
        """One run that waits. Raises `NotFoundError`, or `ApprovalError` if it does not wait any more."""
        owner = owner_of(resource, request_context)
        options = {"memory": memory, "request_context": request_context}
        source, run = await find_run(self._agent, check_id("run", run_id), owner, options)
        run = await check_open(source, owner, run)
        asked = await source.open_runs.parts(owner, [run])
        if run.id not in asked:
            await self._end_lost(source, owner, run)
            raise NotFoundError(f"the message in which run {run_id!r} paused is not there any more")
        return await self._seen(source, owner, run, asked.get(run.id, ()))

    async def cancel(
        self,
        run_id: str,
        *,
        resource: str | None = None,
        reason: str = CANCELLED,
        request_context: RequestContext | None = None,
        memory: TurnSource | None = None,
    ) -> None:
        """End a run that waits, and those of sub-agents that it waits for: their calls count as declined.

        No model is asked. Raises like `get`, and `ValidationError` for a `reason` that is no text.
        """
        check_text("reason", reason)
        owner = owner_of(resource, request_context)
        options = {"memory": memory, "request_context": request_context}
        source, run = await find_run(self._agent, check_id("run", run_id), owner, options)
        run = await check_open(source, owner, run)
        speaker = None if request_context is None else request_context.speaker
        parts = (await source.open_runs.parts(owner, [run])).get(run.id, ())
        await source.open_runs.cancel(owner, run, reason, None if speaker is None else speaker.id)
        for part in parts if is_as_stored(run, parts) else ():
            if isinstance(part, ToolPart) and is_waiting(part) and part.pause is not None:
                context = restored_context(run, owner, request_context)
                await self._cancel_below(source, context, part.pause, reason)

    async def _cancel_below(
        self, source: TurnSource, context: RequestContext, pause: Mapping[str, Any], reason: str
    ) -> None:
        agent = self._agent._team.agents.get(str(pause.get("agent")))
        if agent is None or pause.get("kind") != "delegation":
            return
        memory = await source_below(agent, source, context, str(pause["resource"]), str(pause["run"]))
        try:
            await agent.runs.cancel(pause["run"], resource=pause["resource"], reason=reason, memory=memory)
        except (ConflictError, NotFoundError):
            return  # it is over already

    suspended_sync = sync_twin(suspended)
    get_sync = sync_twin(get)
    cancel_sync = sync_twin(cancel)

    async def _seen(self, source: TurnSource, owner: str, run: Run, parts: Sequence[Part]) -> SuspendedRun:
        """A run as it waits; what sub-agents wait for is read where they do."""
        pending = pending_calls(parts)
        if is_as_stored(run, parts):  # otherwise it may lead anywhere, also to another owner's
            pending = await pending_now(self._agent, source, restored_context(run, owner, None), parts)
        return suspended_run(run, owner, parts, pending)

    # -- reading -------------------------------------------------------------------------------------

    async def _memory(self, options: dict[str, Any]) -> TurnSource:
        async for source in memories(self._agent, options):
            return source
        raise ValidationError(
            f"agent {self._agent.name!r} chooses its memory for each request; say which with memory=... or "
            "request_context=..."
        )

    async def _end_lost(self, source: TurnSource, owner: str, run: Run) -> None:
        """End a run whose message was deleted: nobody can decide it any more."""
        with contextlib.suppress(ConflictError):
            await source.open_runs.cancel(owner, run, LOST, None)

    async def _sweep(self, source: TurnSource, owner: str, thread: str | None) -> None:
        """End what has lapsed."""
        statuses: tuple[RunStatus, ...] = ("running", "suspended")
        for status in statuses:
            for run in await source.open_runs.page(owner, self._agent.name, status, thread_id=thread):
                if source.open_runs.has_lapsed(run):
                    try:
                        await source.open_runs.end_lapsed(owner, run)
                    except ConflictError:
                        continue  # somebody else did

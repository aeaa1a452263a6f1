"""The runs of an agent that wait: listed, looked at, and given up."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from .._errors import ConflictError, ValidationError
from .._ids import check_id, check_paging, utc
from .._sync import sync_twin
from .._types import Message, Run
from ..memory.runs import close_paused, end_lapsed, has_lapsed
from .deciding import check_open, find_run, memories, owner_of
from .options import TurnSource
from .pending import SuspendedRun, SuspendedRunPage, suspended_run
from .request_context import RequestContext

if TYPE_CHECKING:
    from .agent import Agent

CANCELLED = "the run was cancelled"


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
        if thread is not None:
            check_id("thread", thread)
        await self._sweep(source, owner, thread)
        found = await source.store.list_runs(
            owner,
            thread_id=thread,
            status="suspended",
            agent=self._agent.name,
            since=None if since is None else utc("since", since),
            until=None if until is None else utc("until", until),
            page=number,
            per_page=size,
        )
        asked = await self._messages(source, owner, found.runs)
        return SuspendedRunPage(
            runs=tuple([suspended_run(run, owner, asked.get(run.id, ())) for run in found]),
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
        asked = await self._messages(source, owner, [run])
        return suspended_run(run, owner, asked.get(run.id, ()))

    async def cancel(
        self,
        run_id: str,
        *,
        resource: str | None = None,
        reason: str = CANCELLED,
        request_context: RequestContext | None = None,
        memory: TurnSource | None = None,
    ) -> None:
        """End a run that waits: its calls count as declined, and no model is asked.

        Raises like `get`.
        """
        owner = owner_of(resource, request_context)
        options = {"memory": memory, "request_context": request_context}
        source, run = await find_run(self._agent, check_id("run", run_id), owner, options)
        run = await check_open(source, owner, run)
        speaker = None if request_context is None else request_context.speaker
        await close_paused(
            source.store,
            source.now,
            owner,
            run,
            "cancelled",
            reason,
            finish_reason="aborted",
            by=None if speaker is None else speaker.id,
        )

    suspended_sync = sync_twin(suspended)
    get_sync = sync_twin(get)
    cancel_sync = sync_twin(cancel)

    # -- reading -------------------------------------------------------------------------------------

    async def _memory(self, options: dict[str, Any]) -> TurnSource:
        async for source in memories(self._agent, options):
            return source
        raise ValidationError(
            f"agent {self._agent.name!r} chooses its memory for each request; say which with memory=... or "
            "request_context=..."
        )

    async def _sweep(self, source: TurnSource, owner: str, thread: str | None) -> None:
        """End what has lapsed."""
        now = source.now()
        for status in ("running", "suspended"):
            page = await source.store.list_runs(
                owner,
                thread_id=thread,
                status=status,
                agent=self._agent.name,
                per_page=None,
            )
            for run in page:
                if has_lapsed(run, now):
                    try:
                        await end_lapsed(source.store, source.now, owner, run)
                    except ConflictError:
                        continue  # somebody else did

    async def _messages(self, source: TurnSource, owner: str, runs: Any) -> dict[str, tuple[Any, ...]]:
        """The parts of the messages in which these runs paused, by run."""
        wanted: dict[str, Run] = {(run.state or {}).get("message", ""): run for run in runs}
        wanted.pop("", None)
        if not wanted:
            return {}
        found: list[Message] = await source.store.get_messages(owner, list(wanted))
        return {wanted[message.id].id: message.parts for message in found}

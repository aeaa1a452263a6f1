"""Opening a turn: one read transaction, and what is new in the input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from .._errors import ConfigurationError, ConflictError, NotFoundError, ValidationError
from .._ids import check_id, check_name
from .._types import Message, Run, ToolPart
from ..recall.text import quotes_memory
from ..stores.base import (
    LogQuery,
    Store,
    TurnQuery,
)
from .counting import Counters
from .options import MemorySettings
from .runs import HANDED, end_lapsed, has_lapsed, paused_message
from .thread_spec import ThreadSpec
from .turn import Turn
from .turn_input import (
    claim_of,
    earlier_than,
    may_retry,
    messages_of,
    move_window,
    new_messages,
    without_context,
)

if TYPE_CHECKING:
    from .background import Background
    from .observe.view import ObservedThread
    from .recall.recaller import Recaller


async def open_turn(
    store: Store,
    clock: Callable[[], datetime],
    *,
    resource: str,
    thread: ThreadSpec,
    input: Sequence[Message],
    settings: MemorySettings,
    agent: str,
    run_id: str,
    background: Background,
    paused: Run | None = None,
    counters: Counters,
    recaller: Callable[[], Recaller] | None = None,
) -> Turn:
    """Read what the turn needs, in one transaction.

    With `paused`, the turn goes on with that run; it has no input of its own.

    The input is compared with what is stored: a client that replays the whole conversation adds only
    what is new (`new_messages`). Raises `ValidationError` for input of another thread, `ConflictError`
    when a run of this `run_id` is under way, or was made for other input, and when a message that is new
    here has an id that another thread of the owner uses.
    """
    for message in input:
        if message.thread_id is not None and message.thread_id != thread.id:
            raise ValidationError(f"message {message.id!r} belongs to another thread than this turn")
        if message.speaker is not None:  # what cannot be stored is refused before a model is asked
            check_id("speaker", message.speaker.id)
            if message.speaker.name is not None:
                check_name("speaker name", message.speaker.name)
    state = await store.read_turn(
        resource,
        TurnQuery(
            thread_id=thread.id,
            last=settings.last_messages if settings.observational_memory is None else 0,
            slack=settings.slack,
            working_memory=None if settings.working_memory is None else settings.working_memory.scope,
            known_ids=tuple(message.id for message in input),
            run_id=run_id,
            observations=_log_query(store, settings, thread.id, clock),
        ),
    )
    answer: tuple[Message, ...] = ()
    run, claim = state.run, claim_of(input)
    if run is not None and has_lapsed(run, clock()):
        run = await end_lapsed(store, clock, resource, run)
    stopped: Message | None = None
    if paused is not None:
        if run is None or run.version != paused.version:
            raise ConflictError(f"run {run_id!r} was changed by somebody else")
        run, claim = None, (paused.state or {}).get("input", "")
        stopped = await paused_message(store, resource, paused)
    if run is not None:
        if run.thread_id != thread.id or run.status in ("running", "suspended"):
            raise ConflictError(f"run {run_id!r} exists already and is not finished in this thread")
        if run.state is not None and run.state.get("input") != claim:
            raise ConflictError(f"run {run_id!r} was made for other input; give this call another run_id")
        if (taken := (run.state or {}).get(HANDED)) is not None:
            run = await store.get_run(resource, taken)
            if run is None:
                raise NotFoundError(f"the run that answered run {run_id!r} is not there any more")
            if run.status == "running" and not has_lapsed(run, clock()):
                raise ConflictError(f"run {run_id!r} was taken by run {run.id!r}, which is under way")
        answer = await messages_of(store, resource, run)
    started = state.thread is not None and state.thread.message_count > 0
    here = {id_: message for id_, message in state.known.items() if message.thread_id == thread.id}
    new, again = new_messages([without_context(message) for message in input], here, started)
    if settings.writes:
        for message in new:
            if message.id in state.known and message.id not in here:
                raise ConflictError(
                    f"message id {message.id!r} is in use in another of the owner's threads; "
                    "leave the id out to send the message as a new one"
                )
    history, moved = move_window(state.history, settings.last_messages, settings.slack)
    if again is not None and again.seq is not None:
        history, moved = (
            await earlier_than(store, resource, again, settings),
            ("another answer to an earlier message",),
        )
    retried = run if run is not None and may_retry(run, answer) else None
    if retried is not None and (asked := tuple(m for m in answer if m.role == "user")):
        # The question is stored already: it is asked again, and the failed attempt is no answer.
        new, again = asked, asked[0]
        history = await earlier_than(store, resource, again, settings)
    observed: ObservedThread | None = None
    if state.observations is not None:
        from .observe.view import observed_thread

        observed = observed_thread(store, clock, background, resource, settings, state, again=again)
        await observed.look_back()
        history, moved = observed.history, (*moved, *observed.moved)
    if stopped is not None:
        history = tuple([message for message in history if message.id != stopped.id])
    recall = recalling = None
    # Of memory's own tools no outcome is stored, so whatever has one is another's.
    others = frozenset(
        part.tool_call_id
        for part in (() if stopped is None else stopped.parts)
        if isinstance(part, ToolPart) and part.state == "result" and not quotes_memory(part)
    )
    if settings.semantic_recall is not None and recaller is not None:
        recalling = recaller()
        recalling.check(settings.semantic_recall)
        if retried is not None or run is None:
            from .recall.turn import recall_for_turn

            # A paused run asks again for the question that it was to answer.
            questions = new if paused is None else [m for m in history if m.role == "user"][-1:]
            recall = await recall_for_turn(
                recalling,
                resource,
                thread.id,
                settings,
                history=history,
                input=questions,
                before=None if again is None else again.seq,
                asked=stopped,
                noted=() if observed is None else observed.shown_ids,
            )
            if stopped is not None and settings.semantic_recall.tool:
                from .recall.tool import with_quotes

                stopped = await with_quotes(recalling, resource, recall, stopped)
    if stopped is not None and observed is not None:
        stopped = await observed.as_shown(stopped)
    return Turn(
        store,
        clock,
        claim=claim,
        version=retried.version if retried is not None else 0 if paused is None else paused.version,
        resource=resource,
        spec=thread,
        settings=settings,
        agent=agent,
        run_id=run_id,
        thread=state.thread,
        history=history,
        input=new,
        state=state,
        moved=moved,
        again=again is not None,
        finished=None if retried is not None else run,
        answer=answer,
        background=background,
        paused=paused,
        asked=stopped,
        others=others,
        observed=observed,
        counters=counters,
        recall=recall,
        recaller=recalling,
    )


def _log_query(
    store: Store, settings: MemorySettings, thread_id: str, clock: Callable[[], datetime]
) -> LogQuery | None:
    if settings.observational_memory is None or settings.last_messages == 0:
        return None
    if "observations" not in store.capabilities:
        raise ConfigurationError(
            f"{type(store).__name__} keeps no observations: turn off observational_memory"
        )
    from .observe.view import query_of

    return query_of(settings.observational_memory, thread_id, clock())

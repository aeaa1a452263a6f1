"""One turn: opened with one read transaction, committed with one write transaction.

An agent opens a turn, shows the model what it holds, and commits the answer. Nothing is written before the
commit unless `save_user_first` asks for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from .._errors import ConflictError
from .._tracing import span
from .._types import FinishReason, Json, Message, Run, RunStatus, Thread, Usage
from ..stores.base import RunWrite, Store, TurnReceipt, TurnState, TurnWrite, Window
from .context import Layers, Prompt, build_prompt
from .context.render import SPEAKERS, context_part, render_memory, render_memory_update, shown_version
from .counting import Counters, TurnCounts
from .options import MemorySettings
from .runs import HANDED, LEASE
from .thread_spec import ThreadSpec
from .tools import MemoryTool
from .tracing import tell_prompt, tell_written, writing
from .turn_input import without_context

if TYPE_CHECKING:
    from ..models.base import Model
    from .background import Background, OnEvent
    from .observe.view import ObservedThread
    from .recall.recaller import Recaller
    from .recall.turn import TurnRecall
    from .titles import TitleOutcome
    from .working.draft import Draft

REBASES = 50
"""How often a commit is tried again over somebody else's working memory before `ConflictError`."""


class Turn:
    """A turn in progress. `history` are the stored messages before it, `input` what is new in it."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], datetime],
        *,
        claim: str,
        version: int,
        resource: str,
        spec: ThreadSpec,
        settings: MemorySettings,
        agent: str,
        run_id: str,
        thread: Thread | None,
        history: tuple[Message, ...],
        input: tuple[Message, ...],
        state: TurnState,
        moved: tuple[str, ...],
        again: bool,
        finished: Run | None,
        answer: tuple[Message, ...] = (),
        background: Background,
        paused: Run | None = None,
        asked: Message | None = None,
        others: frozenset[str] = frozenset(),
        observed: ObservedThread | None = None,
        counters: Counters,
        recall: TurnRecall | None = None,
        recaller: Recaller | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._background = background
        self._recall = recall
        self._others = others
        self._recaller = recaller
        self._spec = spec
        self._started = clock() if paused is None else paused.started_at
        self._version = version
        self._claim = claim
        self._claimed = version > 0 if paused is None else bool(claim)
        self._input_is_stored = again
        self._has_begun = False
        self._early: set[str] = set()  # messages stored before the commit
        self._state = state
        self._moved = moved
        self._window: Window | None = None
        self._observed = observed
        self._counters = counters
        self._counts = TurnCounts(counters, state.window.counted)
        self._draft: Draft | None = None
        if settings.working_memory is not None:
            from .working.draft import Draft

            self._draft = Draft(settings.working_memory, state.working_memory, spec.id, run_id)
            for message in input:
                if message.speaker is not None:
                    self._draft.add_participant(message.speaker)
        self.resource_id = resource
        self.thread_id = spec.id
        self.settings = settings
        self.agent = agent
        self.run_id = run_id
        self.thread = thread
        self.history = history
        self.input = self._with_memory_update(input)
        self.finished = finished
        """The run of this `run_id` if it was finished before: the call is a repetition."""
        self.answer = answer
        """The messages which that finished run stored."""
        self.paused = paused
        """The run that this turn goes on with, as it was stored."""
        self.asked = asked
        """The message in which that run paused; it is not in `history`."""
        self._settled: Message | None = None
        self.said: tuple[Message, ...] = ()
        """What was said with the decision that the run goes on with."""
        self.titling: asyncio.Future[TitleOutcome] | None = None
        """The work on the thread's title that the commit began, if it did."""

    @property
    def writes(self) -> bool:
        """Whether this turn stores anything."""
        return self.settings.writes

    def tools(self) -> tuple[MemoryTool, ...]:
        """The tools that memory offers to the agent in this turn."""
        return (*self._working_tools(), *self._recall_tools(), *self._observation_tools())

    def _working_tools(self) -> tuple[MemoryTool, ...]:
        working = self.settings.working_memory
        if working is None or self._draft is None or not self._may_note:
            return ()
        from .working.tool import update_tool

        return (update_tool(working, self._draft),)

    def _recall_tools(self) -> tuple[MemoryTool, ...]:
        if self._recaller is None or self._recall is None or not self._recall.settings.tool:
            return ()
        from .recall.tool import recall_tool

        return (recall_tool(self._recaller, self.resource_id, self._recall),)

    def _as_stored(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Messages without what memory's own tools quoted in them; a user's tool may have such a name."""
        if self._recall is not None and self._recall.settings.tool:
            from .recall.tool import without_quotes

            messages = [without_quotes(message, self._others) for message in messages]
        return messages if self._observed is None else self._observed.as_stored(messages, self._others)

    def _observation_tools(self) -> tuple[MemoryTool, ...]:
        return () if self._observed is None else self._observed.tools()

    @property
    def _may_note(self) -> bool:
        """Whether the model may change working memory in this turn."""
        working = self.settings.working_memory
        return working is not None and working.writable and self.writes

    async def prepare(self, model: str) -> None:
        """With `max_context_tokens`: have the model's exact tokenizer ready, if one is installed."""
        if self.settings.max_context_tokens is not None:
            await self._counters.load(model)

    def prompt(
        self,
        instructions: str = "",
        system: str = "",
        context: Sequence[Message] = (),
        *,
        tools: str = "",
        model: str = "",
    ) -> Prompt:
        """What the model sees: memory's layers, the call's `context` messages and the new input.

        `model` is its name, by which tokens are counted, and `tools` the text of what it is told of its
        tools, which is only counted. Both may be left out.
        """
        with span("build_context") as made:
            prompt = self._prompt(instructions, system, context, tools, model)
            tell_prompt(made, prompt)
        return prompt

    def _prompt(
        self, instructions: str, system: str, context: Sequence[Message], tools: str, model: str
    ) -> Prompt:
        memory, version = self._shown_memory(fresh=self._fresh())
        budget = self.settings.max_context_tokens
        counting = self._counts.use(model, exact=budget is not None)
        history = self.history
        if self.paused is not None and context and self._observed is None:
            # A sub-agent that goes on: what it was shown of the lead's conversation came before its prompt.
            history, context = (), (*context, *history)
        layers = Layers(
            instructions=instructions,
            memory_instructions=self.instructions,
            system=system,
            memory=memory,
            memory_version=version,
            history=history,
            recall=self._recall,
            context=context,
            input=self.input,
            window=self._state.window,
            moved=self._moved,
            max_tokens=budget,
            tools=tools,
            observed=self._observed,
            now=self._started,
            counting=counting,
            counted=self._counts.known(),
        )
        prompt, window = build_prompt(layers)
        if prompt.report.dropped:
            # What told of a change of working memory may be among what the budget left out.
            memory, now = self._shown_memory(fresh=True)
            if now != version:
                prompt, window = build_prompt(replace(layers, memory=memory, memory_version=now))
        if self._observed is not None:
            # The answer that goes on, and what was said with the decision, are the caller's to show.
            asked = () if self.asked is None else (self.asked.id, *(message.id for message in self.said))
            self._observed.check(prompt, asked)
        self._window = window
        self._counts.shown(prompt.counted, prompt.counted_history)
        return prompt

    def listening(self, hear: OnEvent) -> AbstractContextManager[None]:
        """Within the block, `hear` is called with what memory tells of this turn's thread."""
        return self._background.listening(self.resource_id, self.thread_id, hear)

    def memory_status(self) -> dict[str, Json] | None:
        """How full the thread's memory is, in tokens against thresholds; `None` without observations."""
        return None if self._observed is None else self._observed.status()

    async def refresh(self, model: Model | None = None, answer: Message | None = None) -> bool:
        """Bring observations into view that are due, before the model is asked. Whether the prompt changes.

        `answer` is the turn's answer so far, before a further step. Waits for a model's observing for
        `ObservationalMemory.deadline` seconds at most. Without observational memory it does nothing.
        """
        if self._observed is None or not self.writes:
            return False
        changed = await self._observed.before_step(self.input, model, answer)
        return self._look_again() or changed

    async def shrink(self, model: Model | None = None, answer: Message | None = None) -> bool:
        """Make the prompt smaller after a provider refused it as too long. Whether it got so."""
        if self._observed is None or not self.writes:
            return False
        changed = await self._observed.after_refusal(self.input, model, answer)
        return self._look_again() or changed

    def _look_again(self) -> bool:
        """Show what observations do not cover. Whether that is not what was shown before."""
        assert self._observed is not None
        history, moved = self._with_asked(self._observed.history), tuple(self._observed.moved)
        if (history, moved) == (self.history, self._moved):
            return False
        self.history, self._moved = history, moved
        self.input = self._with_memory_update(tuple([without_context(message) for message in self.input]))
        return True

    def learn(self, usage: Usage) -> None:
        """Correct later counts by what the provider reported for one call with exactly the last `prompt`."""
        self._counts.learn(usage)

    def take_input(self, messages: Sequence[Message]) -> None:
        """Go on with `messages`, what processors made of the input, instead of `input`."""
        self.input = self._with_memory_update(tuple([without_context(message) for message in messages]))

    def discard_changes(self) -> None:
        """Forget what this turn changed in working memory: it was never accepted."""
        self._draft = None

    def _fresh(self) -> bool:
        """Whether the prompt begins anew, rather than like the thread's last one."""
        return bool(self._moved) or not self._state.window.fingerprint

    @property
    def working_memory(self) -> str:
        """The content of working memory as the turn found it; empty if there is none."""
        version = None if self.settings.working_memory is None else self._state.working_memory
        return "" if version is None else version.content

    def _shown_memory(self, *, fresh: bool) -> tuple[str, int]:
        """The working memory that stands before the history, rendered, and its version."""
        version = self._state.working_memory if fresh else self._state.shown_memory
        working = self.settings.working_memory
        if working is None or version is None:
            return "", 0
        return render_memory(version.content, version.version), version.version

    def _with_memory_update(self, input: tuple[Message, ...]) -> tuple[Message, ...]:
        """Tell the model of a working memory that changed since this thread last showed it."""
        state = self._state
        current = state.working_memory
        if self.settings.working_memory is None or current is None or self._fresh():
            return input
        seen = shown_version(self.history) or state.window.memory
        if current.version == seen:
            return input
        shown = state.shown_memory
        known = shown.content if shown is not None and shown.version == seen else ""
        part = context_part(render_memory_update(known, current.content, current.version), current.version)
        for index, message in enumerate(input):
            if message.role == "user":
                told = message.replace(parts=[part, *message.parts])
                return (*input[:index], told, *input[index + 1 :])
        return input

    @property
    def instructions(self) -> str:
        """What the model is told of memory; it stands after the agent's own instructions."""
        texts = []
        if self.settings.working_memory is not None:
            from .working.tool import instructions

            texts.append(instructions(self.settings.working_memory, writable=self._may_note))
        if self._recall is not None:
            from .recall.turn import instructions as about_recall

            texts.append(about_recall(self._recall))
        if self._observed is not None:
            texts.append(self._observed.instructions)
        if any(message.speaker is not None for message in (*self.history, *self.input)):
            texts.append(SPEAKERS)
        return "\n\n".join(texts)

    def now(self) -> datetime:
        """The time by this memory's clock."""
        return self._clock()

    @property
    def talked_on(self) -> bool:
        """Whether the thread has messages after the one in which the run paused."""
        if self.said:
            return True
        if self.asked is None or self.thread is None or self.asked.seq is None:
            return False
        return self.thread.last_seq > self.asked.seq

    def settle_asked(self, message: Message) -> None:
        """Show the message in which the run paused in its place in the history, as it is."""
        self._settled = message
        self.history = self._with_asked(self.history)

    def _with_asked(self, history: tuple[Message, ...]) -> tuple[Message, ...]:
        """`history` without the message in which the run paused, or with it as it was settled."""
        if self.asked is None:
            return history
        ids = {self.asked.id, *(message.id for message in self.said)}
        kept = tuple([message for message in history if message.id not in ids])
        if self._settled is None:
            return kept
        place = sum((earlier.seq or 0) < (self.asked.seq or 0) for earlier in kept)
        return (*kept[:place], self._settled, *kept[place:], *self.said)

    async def claim(self) -> None:
        """Store that this run is under way, so that no other call with its id can be.

        Of several calls at once one gets through; the others raise `ConflictError`, before any model or tool
        is called. A process that dies leaves the run "running", and its id taken until the lease has run out;
        the run then counts as aborted, and what it did is unknown.
        """
        if self.writes:
            self._claimed = True
            await self._write((), "running")
            self._has_begun = True

    async def hand_over(self, run_id: str) -> None:
        """Store that this run's input was taken by run `run_id`, which gives its answer if it is repeated."""
        if self._has_begun:
            state = {HANDED: run_id}
            await self._write((), "finished", "other", finished_at=self._clock(), state=state)

    def show_again(self, message: Message) -> None:
        """Show a message of the history as it is stored by now."""
        self.history = tuple([message if m.id == message.id else m for m in self.history])

    async def begin(self) -> None:
        """With `save_user_first`: store the input and a running run. Otherwise does nothing."""
        if self.writes and self.settings.save_user_first:
            messages = () if self._input_is_stored else self.input
            await self._write(messages, "running")
            self._has_begun = True
            self._early.update(message.id for message in messages)
            self._input_is_stored = True

    async def checkpoint(self, message: Message) -> None:
        """With `save_user_first`: store the answer as far as it is finished. Otherwise does nothing."""
        if self.writes and self.settings.save_user_first:
            await self._write((message,), "running")
            self._early.add(message.id)

    async def renew(self) -> bool:
        """Say that the process of this running run is alive. False if it is not running any more."""
        until = self._clock() + timedelta(seconds=LEASE)
        return await self._store.renew_run(self.resource_id, self.run_id, self._version, until)

    async def hold(
        self, messages: Sequence[Message], status: RunStatus, state: Mapping[str, Json], usage: Usage
    ) -> TurnReceipt:
        """Store where a paused run stands: still waiting ("suspended"), or claimed and going on ("running").

        Raises `ConflictError` if somebody else has changed the run since this turn was opened.
        """
        self._has_begun = True
        expires = self.paused.expires_at if self.paused is not None and status == "suspended" else None
        reason: FinishReason | None = "suspended" if status == "suspended" else None
        return await self._write(messages, status, reason, usage, state=state, expires_at=expires)

    async def suspend(
        self,
        messages: Sequence[Message],
        state: Mapping[str, Json],
        expires_after: float | None,
        usage: Usage,
    ) -> TurnReceipt:
        """Store the turn as far as it is, and that its run waits, for `expires_after` seconds at most.

        `state` is what it needs to go on. Runs to its end even if the caller is cancelled meanwhile.
        """
        before = () if self._input_is_stored else self.input
        until = None if expires_after is None else self._clock() + timedelta(seconds=expires_after)
        write = self._commit((*before, *messages), "suspended", "suspended", usage, None, state, until)
        return await asyncio.shield(asyncio.ensure_future(write))

    async def retract(self, reason: str, *, finish_reason: FinishReason, usage: Usage | None = None) -> None:
        """Take back what `claim`, `begin` and `checkpoint` stored, because the turn must not be stored.

        The messages go, and the run stays as an aborted one without content. A thread that was created, and
        metadata that was merged into one, stay too: others may have written there meanwhile.
        """
        if not self._has_begun:
            return
        self._claimed = False
        if self._early:
            await self._store.delete_messages(
                self.resource_id, self.thread_id, sorted(self._early), self._clock()
            )
        await self._write((), "aborted", finish_reason, usage, reason, self._clock())

    async def commit(
        self,
        message: Message | None,
        *,
        earlier: Sequence[Message] = (),
        status: RunStatus = "finished",
        finish_reason: FinishReason = "stop",
        usage: Usage | None = None,
        error: str | None = None,
        model: Model | None = None,
        request_context: object = None,
    ) -> TurnReceipt | None:
        """Store the turn: thread, input, answer and run record. `None` if this turn writes nothing.

        Once begun it runs to its end even if the caller is cancelled meanwhile. `model` is the one that
        answered, and `request_context` what it was asked with: for a title, if the thread is to get one.
        `earlier` are messages of the same answer that come before `message`.
        """
        if not self.writes:
            return None
        messages = (*(() if self._input_is_stored else self.input), *earlier)
        if message is not None:
            messages = (*messages, message)

        async def store() -> TurnReceipt:
            receipt = await self._commit(messages, status, finish_reason, usage, error)
            if self._recaller is not None:
                self._recaller.indexer.wake()
            if status == "finished" and self.settings.generate_title is not None:
                self._name(receipt.thread, message, model, request_context)
            if self._observed is not None:
                self._observed.follow(receipt.messages, model)
            return receipt

        return await asyncio.shield(asyncio.ensure_future(store()))

    def _name(
        self, thread: Thread, answer: Message | None, model: Model | None, request_context: object
    ) -> None:
        from .titles import start_title

        assert self.settings.generate_title is not None
        said = (*self.history, *self.input)
        self.titling = start_title(
            self._background,
            self._store,
            self._clock,
            self.settings.generate_title,
            thread,
            said if answer is None else (*said, answer),
            model=model,
            request_context=request_context,
        )

    async def _commit(
        self,
        messages: Sequence[Message],
        status: RunStatus,
        finish_reason: FinishReason,
        usage: Usage | None,
        error: str | None,
        state: Mapping[str, Json] | None = None,
        expires_at: datetime | None = None,
    ) -> TurnReceipt:
        """Store it; over a working memory that somebody else changed meanwhile, make our changes again."""
        for attempt in range(REBASES):
            try:
                return await self._write(
                    messages,
                    status,
                    finish_reason,
                    usage,
                    error,
                    None if status == "suspended" else self._clock(),
                    last=True,
                    state=state,
                    expires_at=expires_at,
                )
            except ConflictError:
                working = self.settings.working_memory
                if self._draft is None or working is None or attempt == REBASES - 1:
                    raise
                current = await self._store.get_working_memory(
                    self.resource_id, thread_id=self.thread_id if working.scope == "thread" else None
                )
                if not self._draft.rebase(current):
                    raise
        raise AssertionError("unreachable: the loop returns or raises")

    async def _write(
        self,
        messages: Sequence[Message],
        status: RunStatus,
        finish_reason: FinishReason | None = None,
        usage: Usage | None = None,
        error: str | None = None,
        finished_at: datetime | None = None,
        *,
        last: bool = False,
        state: Mapping[str, Json] | None = None,
        expires_at: datetime | None = None,
    ) -> TurnReceipt:
        now = self._clock()
        if status == "running":
            expires_at = now + timedelta(seconds=LEASE)
        if self._claimed:
            state = {"input": self._claim, **(state or {})}
        messages = self._as_stored(messages)
        write = TurnWrite(
            thread_id=self.thread_id,
            now=now,
            messages=[
                message
                if message.run_id == self.run_id
                else message.replace(run_id=self.run_id, created_at=message.created_at or self._started)
                for message in messages
            ],
            title=self._spec.title,
            metadata=self._spec.metadata,
            run=RunWrite(
                id=self.run_id,
                agent=self.agent,
                status=status,
                finish_reason=finish_reason,
                usage=(usage or Usage()).to_dict(),
                error=error,
                started_at=self._started,
                finished_at=finished_at,
                if_version=self._version,
                state=state,
                expires_at=expires_at,
            ),
            working_memory=self._draft.write() if last and self._draft is not None else None,
            window=replace(self._window, counted=self._counts.dump()) if last and self._window else None,
        )
        with writing(self.resource_id, self.thread_id, messages, self.run_id, status) as made:
            tell_written(made, messages)
            receipt = await self._store.write_turn(self.resource_id, write)
        self._version += 1
        return receipt

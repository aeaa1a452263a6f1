"""The observer: shows a model numbered messages, and makes guarded rows of what it notes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ...stores.base import Hints, NewObservation
from ._checks import zone
from ._text import cut, one_line, protect, says_something
from ._types import ObserverBatch, ObserverResult
from .extract import WORKING_MEMORY, accepted, previous
from .guard import Checks, Draft, guarded, is_refusal, missed_details, verbatim
from .hooks import HookContext
from .parse import Answer, parse
from .prompts import VERSION, observer_instructions
from .roles import Asker, takes_files, tell, transform
from .settings import DEFAULT_ATTACHMENTS, ObservationalMemory
from .transcript import Transcript, View, pieces_of, transcripts

if TYPE_CHECKING:
    from ..._types import Message
    from ...models import Model
    from ..working import WorkingMemory

MANY_MISSED = 3
"""The observer is asked once more when it left out more details than this, or a message altogether."""

_LEAST_TITLE = 3

_AGAIN = """

Your last answer could not be used: {problem}. Answer with nothing but lines of the form
- (PRIORITY KIND) text [m1]
each with the numbers of the messages it rests on, and NOTHING m2 for messages with nothing to keep."""


@dataclass(slots=True, kw_only=True)
class _Work:
    """What one job has gathered so far."""

    asker: Asker
    checks: Checks
    rows: list[NewObservation] = field(default_factory=list)
    nothing: list[str] = field(default_factory=list)
    repeats: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    task: str = ""
    reply: str = ""
    title: str = ""
    truncated: bool = False
    cut_off: set[str] = field(default_factory=set)
    """Ids of messages of which some part was shown, and the answer ended before it came to it."""

    def take(self, answer: Answer, draft: Draft, transcript: Transcript) -> None:
        self.rows.extend(draft.rows)
        self.nothing.extend(transcript.labels[label].message.id for label in draft.nothing)
        for row, messages in draft.repeats.items():
            self.repeats.setdefault(row, []).extend(messages)
        self.notes.extend(draft.notes)
        self.values.update(answer.values)
        self.task, self.reply = answer.task or self.task, answer.reply or self.reply
        self.title = answer.title or self.title

    def cited(self) -> set[str]:
        found = {source.message_id for row in self.rows for source in row.sources}
        return found.union(*self.repeats.values())

    def forget_cut_off(self) -> None:
        """Let go of what rests on messages that were noted in part: they are observed again as a whole."""
        cut_off = self.cut_off.intersection([*self.cited(), *self.nothing])
        if not cut_off:
            return
        self.rows = [row for row in self.rows if cut_off.isdisjoint([s.message_id for s in row.sources])]
        self.nothing = [id_ for id_ in self.nothing if id_ not in cut_off]
        for row, messages in self.repeats.items():
            self.repeats[row] = [id_ for id_ in messages if id_ not in cut_off]
        self.notes.append(f"{len(cut_off)} messages that were noted in part are observed again")


class ModelObserver:
    """An `Observer` with a model behind it. `model` is the agent's own, for settings that name none.

    `working` are the settings of the working memory that it is to keep, if it is.
    """

    def __init__(
        self,
        settings: ObservationalMemory,
        model: Model | None = None,
        working: WorkingMemory | None = None,
    ) -> None:
        self._settings = settings
        self._model = model
        own = settings.observation
        values = [item.request() for item in own.extract]
        if working is not None and own.manage_working_memory:
            from .working import request

            values.append(request(working))
        self._instructions = observer_instructions(
            hints=own.hints,
            title=own.thread_title,
            values=values,
            instruction=own.instruction,
        )
        digest = hashlib.blake2b(self._instructions.encode("utf-8", "surrogatepass"), digest_size=6)
        self._version = f"observe-{VERSION}-{digest.hexdigest()}"

    @property
    def version(self) -> str:
        """The version of the prompt, with a digest of the instructions."""
        return self._version

    async def observe(self, batch: ObserverBatch) -> ObserverResult:
        """Rows for the messages of `batch`. Raises `ObservingError` when there is no usable answer."""
        settings = self._settings
        asker = Asker(
            role="observer",
            model=settings.observer_model,
            fallback=self._model,
            settings=settings.observation.model_settings,
            job_id=batch.job_id,
        )
        about = HookContext(
            role="observer", resource_id=batch.resource_id, thread_id=batch.thread_id, job_id=batch.job_id
        )
        await tell(settings.hooks, "start", about)
        try:
            result = await self._observe(batch, asker)
        except BaseException as error:
            await tell(settings.hooks, "end", replace(about, usage=asker.usage, error=type(error).__name__))
            raise
        await tell(settings.hooks, "end", replace(about, usage=asker.usage, rows=len(result.rows)))
        return result

    async def _observe(self, batch: ObserverBatch, asker: Asker) -> ObserverResult:
        own = self._settings.observation
        hook = self._settings.hooks.before_observation
        given: Sequence[Message] = batch.messages
        chosen = await transform(hook, given, "before_observation", asker)
        originals = {message.id: message for message in batch.messages}
        if any(message.id not in originals for message in chosen):
            raise asker.failure("the hook before_observation returned other messages", "invalid")
        view = View(zone=zone(batch.timezone), files=self._files(), redact=self._settings.redact)
        work = _Work(
            asker=asker,
            checks=Checks(
                zone=view.zone,
                originals=originals,
                prior={row.id: row for row in batch.prior},
                task=self._instructions,
                redact=self._settings.redact,
            ),
        )
        pieces = list(pieces_of(chosen, view))
        head = self._head(batch)
        for transcript in transcripts(pieces, own.max_tokens_per_batch):
            await self._note(transcript, head, batch, work)
        work.forget_cut_off()
        seen = {piece.message.id for piece in pieces}
        # Nothing to show: left out by the hook, or only calls of memory's own tools.
        work.nothing.extend(id_ for id_ in originals if id_ not in seen)
        drafts: Sequence[NewObservation] = work.rows
        hook_after = self._settings.hooks.after_observation
        rows = await transform(hook_after, drafts, "after_observation", asker)
        cited = work.cited()
        work.rows = list(rows)
        work.nothing.extend(cited - work.cited())
        return await self._result(batch, work)

    # -- one call ------------------------------------------------------------------------------------

    async def _note(self, transcript: Transcript, head: str, batch: ObserverBatch, work: _Work) -> None:
        """Observe one transcript: ask, and ask once more about what cannot be used or was left out."""
        text = f"{head}{transcript.text}\n\nWrite the lines for these messages."
        if batch.attempt > 1:
            text += "\nAn earlier answer could not be used: keep to the form to the letter."
        answer, draft, truncated, problem = await self._ask(text, transcript, work)
        again = bool(problem)
        if problem:
            work.notes.append(f"asked again: {problem}")
            text += _AGAIN.format(problem=problem)
            answer, draft, truncated, problem = await self._ask(text, transcript, work)
            if problem:
                raise work.asker.failure(f"the observer gave nothing to store: {problem}", _REASONS[problem])
        work.take(answer, draft, transcript)
        done = _accounted(draft, transcript)
        if truncated or draft.looped or draft.capped:
            work.truncated = True
            work.cut_off.update(piece.message.id for piece in transcript.pieces)
            work.cut_off -= done
            return  # what it did not come to is observed again
        if not again:
            await self._ask_for_missed(transcript, head, work, done)
        self._fill(transcript, work, done)

    async def _ask(self, text: str, transcript: Transcript, work: _Work) -> tuple[Answer, Draft, bool, str]:
        reply = await work.asker.ask(self._instructions, text, transcript.files)
        answer = parse(reply.text, list(transcript.labels), shown=transcript.shown, truncated=reply.truncated)
        draft = guarded(answer, transcript, work.checks)
        problem = ""
        if not draft.rows and not draft.repeats and not draft.nothing:
            if draft.looped:
                problem = "it repeats itself"
            elif reply.filtered or draft.refused or is_refusal(reply.text):
                problem = "it is a refusal"
            elif not reply.text.strip():
                problem = "it is empty"
            elif answer.lines or answer.nothing:
                problem = "no line names a message"
            else:
                problem = "it has no line of the log"
        return answer, draft, reply.truncated, problem

    async def _ask_for_missed(self, transcript: Transcript, head: str, work: _Work, done: set[str]) -> None:
        """Ask once more about messages that were passed over, or whose details are in no line.

        `done` are ids of messages that the answer accounts for; those of the second answer are added.
        """
        silent = [
            piece.label
            for piece in transcript.pieces
            if piece.message.id not in done and piece.origin == "user" and says_something(piece.text)
        ]
        details = missed_details(transcript, work.rows, work.checks.prior.values())
        if sum(map(len, details.values())) <= MANY_MISSED:
            details = {label: items for label, items in details.items() if label in silent}
        wanted = [label for label in transcript.labels if label in silent or label in details]
        if not wanted:
            return
        passed = [piece for piece in transcript.pieces if piece.message.id not in done]
        pieces = [piece for piece in transcript.pieces if piece.label in wanted or piece in passed]
        part = next(iter(transcripts(pieces, max(2_000, self._settings.observation.max_tokens_per_batch))))
        lines = [f"{label}: {protect(one_line(', '.join(details[label])))[:500]}" for label in details]
        listed = "\nIn none of your lines so far:\n" + "\n".join(lines) if lines else ""
        text = f"{head}{part.text}\n{listed}\nYour lines left these messages out. Write lines, or NOTHING."
        work.notes.append(f"asked about {len(wanted)} messages that were left out")
        try:
            answer, draft, truncated, problem = await self._ask(text, part, work)
        except Exception:  # what there is already is good without it
            work.notes.append("the second answer failed")
            return
        if not problem:
            answer.task = answer.reply = answer.title = ""
            work.take(answer, draft, part)
            work.truncated = work.truncated or truncated
            done |= _accounted(draft, part)

    def _fill(self, transcript: Transcript, work: _Work, done: set[str]) -> None:
        """Account for messages that the model passed over twice: what a user said is kept word for word."""
        for piece in transcript.pieces:
            if piece.message.id in done:
                continue
            done.add(piece.message.id)
            own = [other for other in transcript.pieces if other.message.id == piece.message.id]
            said = next((other for other in own if other.origin == "user"), None)
            row = None if said is None else verbatim(said, work.checks.originals[piece.message.id])
            if row is None:
                work.nothing.append(piece.message.id)
            else:
                work.rows.append(row)
                work.notes.append("a message that was passed over is kept word for word")

    # -- around it -----------------------------------------------------------------------------------

    def _files(self) -> tuple[str, ...]:
        wanted = self._settings.observation.observe_attachments
        if wanted == "auto":
            model = self._settings.observer_model
            return DEFAULT_ATTACHMENTS if takes_files(self._model if model is None else model) else ()
        if isinstance(wanted, bool):
            return ("*",) if wanted else ()
        return wanted

    def _head(self, batch: ObserverBatch) -> str:
        """What stands before the messages: known lines, the last hints, and the values so far."""
        parts = []
        if batch.prior:
            lines = [
                f"{row.id} ({row.priority} {row.kind}) {protect(one_line(row.text))}" for row in batch.prior
            ]
            if batch.prior_omitted:
                lines.append(f"({batch.prior_omitted} more known lines are not shown)")
            parts.append(_element("known", "\n".join(lines)))
        own = self._settings.observation
        if own.hints.current_task and batch.hints.current_task:
            parts.append(_element("current-task", protect(one_line(batch.hints.current_task))))
        if own.thread_title and batch.title:
            parts.append(f"The title so far: {protect(one_line(batch.title))}")
        values = previous(own.extract, batch.extracted)
        if batch.working_memory is not None:
            told = json.dumps(batch.working_memory, ensure_ascii=False)
            parts.append(f"The working memory so far:\n{protect(told)}")
        if values:
            from ..._codec import to_json

            parts.append(
                "The values so far:\n" + "\n".join(f"{k}: {protect(to_json(v))}" for k, v in values.items())
            )
        return "".join(f"{part}\n\n" for part in parts)

    async def _result(self, batch: ObserverBatch, work: _Work) -> ObserverResult:
        own = self._settings.observation
        clean = work.checks.redact or str
        hints = None
        if (work.task and own.hints.current_task) or (work.reply and own.hints.suggested_response):
            hints = Hints(
                current_task=cut(clean(work.task), 1_000) if own.hints.current_task else "",
                suggested_response=cut(clean(work.reply), 1_000) if own.hints.suggested_response else "",
            )
        title = one_line(clean(work.title)) if own.thread_title else ""
        cited = work.cited()
        return ObserverResult(
            rows=tuple(work.rows),
            nothing=_once(id_ for id_ in work.nothing if id_ not in cited),
            repeats={row: _once(messages) for row, messages in work.repeats.items()},
            hints=hints,
            extracted=await accepted(own.extract, work.values, batch.extracted, clean, work.notes),
            working_memory=clean(work.values[WORKING_MEMORY]) if WORKING_MEMORY in work.values else None,
            title=title if len(title) >= _LEAST_TITLE else None,
            usage=work.asker.usage,
            model=work.asker.name,
            truncated=work.truncated,
            notes=tuple(work.notes),
        )


_REASONS = {
    "it repeats itself": "loop",
    "it is a refusal": "refusal",
    "it is empty": "empty",
    "no line names a message": "no-sources",
    "it has no line of the log": "unparsable",
}


def _accounted(draft: Draft, transcript: Transcript) -> set[str]:
    """Ids of the messages that an answer cites, or says to hold nothing."""
    return draft.cited().union([transcript.labels[label].message.id for label in draft.nothing])


def _element(name: str, text: str) -> str:
    return f"<{name}>\n{text}\n</{name}>"


def _once(ids: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(ids))

"""The reflector: has a model condense rows, and keeps only summaries that lose nothing important."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..._codec import to_json
from ...stores.base import NewObservation, Observation
from ...stores.base._observations import Origin
from ._checks import zone
from ._text import NEGATIONS, exact_items, missing, names, one_line, protect, words
from ._types import ReflectorBatch, ReflectorResult
from .extract import accepted, previous
from .guard import is_refusal
from .hooks import HookContext
from .parse import PRIORITIES, Line, parse
from .prompts import DENSITY, VERSION, reflector_instructions
from .quotes import quoted
from .render import render_row, row_tokens
from .roles import Asker, tell, transform
from .settings import ObservationalMemory

if TYPE_CHECKING:
    from ...models import Model

KEPT_WORDS = 0.6
"""The share of a high-priority row's words that its summary must have."""

MOST_CHILDREN = 60
"""A summary stands for so many rows at most: one line for all would say nothing of any."""


class ModelReflector:
    """A `Reflector` with a model behind it. `model` is the agent's own, for settings that name none."""

    def __init__(self, settings: ObservationalMemory, model: Model | None = None) -> None:
        self._settings = settings
        self._model = model
        self._instructions = reflector_instructions(
            settings.reflection.instruction, [item.request() for item in settings.reflection.extract]
        )
        digest = hashlib.blake2b(self._instructions.encode("utf-8", "surrogatepass"), digest_size=6)
        self._version = f"reflect-{VERSION}-{digest.hexdigest()}"

    @property
    def version(self) -> str:
        """The version of the prompt, with a digest of the instructions."""
        return self._version

    async def reflect(self, batch: ReflectorBatch) -> ReflectorResult:
        """Summaries of rows of `batch`. Raises `ObservingError` when the answer has none that may be used."""
        settings = self._settings
        asker = Asker(
            role="reflector",
            model=settings.reflector_model,
            fallback=self._model,
            settings=settings.reflection.model_settings,
            job_id=batch.job_id,
        )
        about = HookContext(
            role="reflector", resource_id=batch.resource_id, thread_id=batch.thread_id, job_id=batch.job_id
        )
        await tell(settings.hooks, "start", about)
        try:
            result = await self._reflect(batch, asker)
        except BaseException as error:
            await tell(settings.hooks, "end", replace(about, usage=asker.usage, error=type(error).__name__))
            raise
        await tell(settings.hooks, "end", replace(about, usage=asker.usage, rows=len(result.rows)))
        return result

    async def _reflect(self, batch: ReflectorBatch, asker: Asker) -> ReflectorResult:
        given: Sequence[Observation] = batch.rows
        chosen = await transform(self._settings.hooks.before_reflection, given, "before_reflection", asker)
        known = {row.id: row for row in batch.rows}
        if any(row.id not in known for row in chosen):
            raise asker.failure("the hook before_reflection returned other rows", "invalid")
        reply = await asker.ask(self._instructions, self._text(chosen, batch))
        order = [row.id for row in chosen]
        shown = "\n".join(row.text for row in chosen)
        answer = parse(reply.text, order, shown=shown, truncated=reply.truncated)
        notes: list[str] = []
        drafts: Sequence[NewObservation] = summaries(answer.lines, chosen, notes)
        rows = await transform(self._settings.hooks.after_reflection, drafts, "after_reflection", asker)
        if not rows:
            reason = "unparsable" if not answer.lines else "invalid"
            if not reply.text.strip():
                reason = "empty"
            elif reply.filtered or is_refusal(reply.text):
                reason = "refusal"
            raise asker.failure(f"the reflector gave no summary that may be used: {reason}", reason)
        clean = self._settings.redact or str
        extracted = await accepted(
            self._settings.reflection.extract, answer.values, batch.extracted, clean, notes
        )
        return ReflectorResult(
            rows=tuple(rows),
            extracted=extracted,
            usage=asker.usage,
            model=asker.name,
            notes=tuple(notes),
        )

    def _text(self, rows: Sequence[Observation], batch: ReflectorBatch) -> str:
        zone_ = zone(batch.timezone)
        # One line each, whatever is in it: a row that looks like several must not be several here.
        lines = [one_line(render_row(row, zone_)) for row in rows]
        density = DENSITY[min(batch.attempt, len(DENSITY)) - 1]
        text = (
            f"<observations>\n{chr(10).join(lines)}\n</observations>\n\n{density} "
            f"At most about {max(1, batch.target_tokens * 3 // 4):,} words in all."
        )
        values = previous(self._settings.reflection.extract, batch.extracted)
        if values:
            listed = "\n".join(f"{k}: {protect(to_json(v))}" for k, v in values.items())
            text += f"\nThe values so far:\n{listed}"
        if batch.problems:
            listed = "\n".join(f"- {protect(one_line(problem))}" for problem in batch.problems[:10])
            text += f"\nWhat was wrong with the last attempt:\n{listed}"
        return text


def summaries(lines: Sequence[Line], rows: Sequence[Observation], notes: list[str]) -> list[NewObservation]:
    """The summaries among `lines` that may stand for the rows they name. `notes` gets why others may not.

    Each line is judged by itself: it is smaller than its rows, and has of each high-priority row every
    number, name, identifier and quotation, most of the words, and its negations. A row goes to the first
    line that names it.
    """
    known = {row.id: row for row in rows}
    taken: set[str] = set()
    kept: list[NewObservation] = []
    for line in lines:
        children = [known[source] for source in line.sources if source in known and source not in taken]
        children.sort(key=lambda row: row.place)
        problem = _problem(line, children)
        if problem:
            notes.append(f"a summary of {len(children)} lines was dropped: {problem}")
            continue
        draft = _summary(line, children)
        if draft.tokens >= sum(row_tokens(row) for row in children):
            notes.append(f"a summary of {len(children)} lines was dropped: it is no smaller than they are")
            continue
        taken.update(draft.children)
        kept.append(draft)
    return kept


def _problem(line: Line, children: Sequence[Observation]) -> str:
    if not children:
        return "it names no line that is free"
    if len(children) > MOST_CHILDREN:
        return f"it stands for more than {MOST_CHILDREN} lines"
    if is_refusal(line.text, line=True):
        return "it is a refusal"
    if any(child.kind == "rule" for child in children):
        return "rules stay as they are"
    speakers = {child.speaker_id for child in children if child.speaker_id is not None}
    if len(speakers) > 1:
        return "it mixes what several people said"
    for child in children:
        if child.priority != "high":
            continue
        lost = lost_from(child.text, line.text)
        if lost:
            return f"{child.id} lost {lost}"
    return ""


def lost_from(text: str, summary: str) -> str:
    """What `summary` lacks of a text that must be kept, in a few words without content; empty for nothing."""
    if missing(exact_items(text), summary):
        return "a number, address or identifier"
    if missing(names(text, starts=True), summary):
        return "a name"
    if any(quote.casefold() not in summary.casefold() for quote in quoted(text)):
        return "a quotation"
    said, kept = words(text), words(summary)
    left = set(kept)
    if sum(word in left for word in said) < KEPT_WORDS * len(said):
        return "most of its words"
    if sum(word in NEGATIONS for word in said) > sum(word in NEGATIONS for word in kept):
        return "a negation"
    if not any(word in NEGATIONS for word in said) and any(word in NEGATIONS for word in kept):
        return "its sense: a negation came in"
    return ""


def _summary(line: Line, children: Sequence[Observation]) -> NewObservation:
    origins = {child.origin for child in children}
    origin: Origin = next(iter(origins)) if len(origins) == 1 else "assistant"  # a tool's word is no person's
    speakers = {child.speaker_id for child in children}
    draft = NewObservation(
        kind="summary",
        priority=min((child.priority for child in children), key=PRIORITIES.index),
        text=line.text,
        made_by="reflector",
        origin=origin,
        speaker_id=next(iter(speakers)) if len(speakers) == 1 else None,
        children=tuple(child.id for child in children),
        count=sum(child.count for child in children),
        flags=("cut",) if line.cut else (),
    )
    return replace(draft, tokens=row_tokens(draft))

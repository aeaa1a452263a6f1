"""`threadmark context`: what a model would see of a conversation now, block by block."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size

from .._codec import part_to_dict
from .._errors import ValidationError
from .._types import FilePart, Message, ReasoningPart, TextPart, Thread, ToolPart
from ..memory import Memory
from ..memory.context import Block, Prompt
from ..memory.tokens import message_tokens
from . import _database
from ._show import find_thread, print_json, short
from ._terminal import Screen, clean, clean_line

QUESTION = "(your next message)"

_PLAIN, _BOLD, _DIM = "\x1b[0m", "\x1b[1m", "\x1b[2m"
_COLOURS: Mapping[str, str] = {
    "instructions": "\x1b[34m",
    "system": "\x1b[94m",
    "tools": "\x1b[34m",
    "working_memory": "\x1b[35m",
    "observations": "\x1b[33m",
    "history": "\x1b[32m",
    "recalled": "\x1b[36m",
    "now": "\x1b[33m",
    "context": "\x1b[37m",
    "input": "\x1b[31m",
}
_LINES = 2  # of each text, unless all of it is asked for


def show_context(
    *,
    thread: str,
    user: str | None,
    message: str | None,
    last_messages: int | None,
    max_tokens: int | None,
    full: bool,
    db: str,
    as_json: bool,
) -> None:
    """Print what the model would see of a conversation with the next message."""
    if message is not None and not message.strip():
        raise ValidationError("--message is empty; leave it out for a placeholder")
    with _database.open_memory(db, must_exist=True) as memory:
        found = find_thread(memory, thread, user)
        handle = memory.resource(found.resource_id).thread(found.id)
        options: dict[str, Any] = {
            "working_memory": _working_memory(memory, found),
            "observational_memory": handle.observations.list_sync(per_page=1).total > 0,
            # What is recalled depends on the question; without one there is nothing to look for.
            "semantic_recall": message is not None and memory.index_state_sync().enabled,
        }
        if last_messages is not None:
            options["last_messages"] = last_messages
        if max_tokens is not None:
            options["max_context_tokens"] = max_tokens
        turn = memory.open_turn_sync(
            resource=found.resource_id,
            thread=found.id,
            input=[Message.user(QUESTION if message is None else message)],
            options=options,
        )
        prompt = turn.prompt()
    if as_json:
        print_json(_json(found, prompt))
        return
    Printer(prompt, full=full).print(found)


def _working_memory(memory: Memory, thread: Thread) -> Any:
    """Settings for the working memory that there is: the thread's own, the owner's, or none."""
    from ..memory.working import WorkingMemory

    store = memory.store
    from .._sync import run_sync

    for scope, thread_id in (("thread", thread.id), ("resource", None)):
        if run_sync(store.get_working_memory(thread.resource_id, thread_id=thread_id)) is not None:
            return WorkingMemory(scope=scope)  # type: ignore[arg-type]
    return False


class Printer:
    """Prints a prompt and the report on it; in colour to a terminal."""

    def __init__(self, prompt: Prompt, *, full: bool) -> None:
        self._prompt = prompt
        self._report = prompt.report
        self._full = full
        self._screen = Screen(live=False)
        terminal = sys.stdout.isatty()
        self._colours = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._width = self._screen.width if terminal else 100

    def print(self, thread: Thread) -> None:
        report, title = self._report, clean_line(thread.title) or "(untitled)"
        self._line(self._paint(title, _BOLD))
        held = _database.count(thread.message_count, "message")
        self._line(f"{clean_line(thread.id)} of {clean_line(thread.resource_id)}, {held}")
        self._line()
        if self._colours and report.tokens:
            self._line(self._bar())
            self._line()
        size = max((len(f"{block.tokens:,}") for block in report.blocks), default=1)
        marked = False
        for number, block in enumerate(report.blocks):
            if not block.stable and not marked:
                self._mark()
                marked = True
            self._block(block, size)
            if number + 1 == len(report.blocks) and not marked:
                self._mark()
        self._line()
        self._summary()

    # -- blocks --------------------------------------------------------------------------------------

    def _block(self, block: Block, size: int) -> None:
        colour = _COLOURS.get(block.kind, "")
        name = self._paint(f"{block.kind:<14}", _BOLD + colour)
        why = clean_line(block.why)
        if not self._full:
            why = _fit(why, self._width - 14 - 2 - size - len(" tokens  "))
        self._line(f"{name}  {block.tokens:>{size},} tokens  {why}")
        if block.text:
            self._text("", [block.text], colour)
        sources = set(block.sources)
        for message in self._prompt.messages:
            if message.id in sources:
                self._text(f"{message.role} ", list(shown(message)), colour)

    def _text(self, head: str, texts: Sequence[str], colour: str) -> None:
        rows: list[str] = []
        for text in texts:
            lines = clean(text).strip("\n").split("\n")
            if not self._full:
                more = len(lines) - _LINES
                lines = [_fit(line, self._width - 4 - cell_len(head)) for line in lines[:_LINES]]
                if more > 0:
                    lines.append(f"[{_database.count(more, 'more line')}]")
            rows += lines
        for number, row in enumerate(rows):
            lead = head if number == 0 else " " * len(head)
            edge = self._paint("\u2502", colour)
            self._line(f"  {edge} {self._paint(lead, _DIM)}{row}".rstrip())

    def _mark(self) -> None:
        report = self._report
        share = f" ({100 * report.stable_tokens // report.tokens} %)" if report.tokens else ""
        text = f" stable up to here: {report.stable_tokens:,} of {report.tokens:,} tokens{share} "
        self._line(self._paint(f"\u2500\u2500{text}".ljust(min(self._width, 80), "\u2500"), _DIM))

    def _bar(self) -> str:
        """One line in the colours of the blocks, as long as each is of the whole."""
        total, width = self._report.tokens, min(self._width, 80)
        out, at, so_far = [], 0, 0
        for block in self._report.blocks:
            so_far += block.tokens
            end = round(width * so_far / total)
            out.append(self._paint("\u2588" * (end - at), _COLOURS.get(block.kind, "")))
            at = end
        return "".join(out)

    def _summary(self) -> None:
        report = self._report
        budget = "" if report.budget is None else f" of at most {report.budget:,}"
        self._line(self._paint(f"{report.tokens:,} tokens{budget}, estimated", _BOLD))
        if report.over_budget:
            self._line("Over the budget: what must not be left out is more than that.")
        if report.dropped:
            left_out = _database.count(len(report.dropped), "message")
            self._line(f"Left out by the budget: {left_out}.")
        for reason in report.breaks:
            self._line(f"Does not begin like the prompt before: {clean_line(reason)}.")
        self._line(self._paint("Not shown: the instructions and tools of the agent that will answer.", _DIM))

    # -- writing -------------------------------------------------------------------------------------

    def _paint(self, text: str, colour: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self._colours and colour and text else text

    def _line(self, text: str = "") -> None:
        sys.stdout.write(f"{text}\n")


def shown(message: Message) -> Iterator[str]:
    """The parts of a message that a model is sent, as text."""
    for part in message.parts:
        if isinstance(part, TextPart):
            yield part.text
        elif isinstance(part, ReasoningPart):
            yield f"[thinking: {part.text}]"
        elif isinstance(part, ToolPart):
            outcome = part.error if part.error is not None else short(part.output)
            yield f"[tool {part.tool_name} {short(part.args)} \u2192 {outcome}]"
        elif isinstance(part, FilePart):
            yield f"[file {part.name or part.url or ''} {part.media_type}]"


def _fit(row: str, width: int) -> str:
    width = max(width, 20)
    return row if cell_len(row) <= width else f"{set_cell_size(row, width - 1).rstrip()}\u2026"


# -- JSON --------------------------------------------------------------------------------------------


def _json(thread: Thread, prompt: Prompt) -> dict[str, Any]:
    report = prompt.report
    by_id = {message.id: message for message in prompt.messages}
    return {
        "thread": thread.id,
        "user": thread.resource_id,
        "tokens": report.tokens,
        "stable_tokens": report.stable_tokens,
        "reused_tokens": report.reused_tokens,
        "repeated_tokens": report.repeated_tokens,
        "budget": report.budget,
        "over_budget": report.over_budget,
        "dropped": list(report.dropped),
        "breaks": list(report.breaks),
        "blocks": [
            {
                "kind": block.kind,
                "tokens": block.tokens,
                "stable": block.stable,
                "why": block.why,
                "text": block.text,
                "messages": _messages([by_id[key] for key in block.sources if key in by_id]),
            }
            for block in report.blocks
        ],
    }


def _messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [
        {
            "id": message.id,
            "role": message.role,
            "tokens": message_tokens(message),
            "parts": [part_to_dict(part) for part in message.parts],
        }
        for message in messages
    ]

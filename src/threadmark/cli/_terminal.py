"""Writing to a terminal or a pipe, safely: nothing that is stored can act on the terminal."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import TextIO

from rich.cells import cell_len, set_cell_size

from .._errors import ThreadmarkError

# Control characters (C0 but tab and line feed, DEL, C1), and those that reorder what is shown.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_DIM, _BOLD, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"


def clean(text: str) -> str:
    """`text` with control characters written out (`\\x1b`), for a terminal to show and not to obey."""
    return _UNSAFE.sub(lambda found: ascii(found.group())[1:-1], text.replace("\r\n", "\n"))


def clean_line(text: str) -> str:
    """`text` cleaned and on one line."""
    return " ".join(clean(text).split())


class Screen:
    """Where output goes. `live` is true for a person at a terminal, false for pipes and files.

    Answers go to standard output. Notices go there, too, for a person, and to standard error otherwise.
    """

    def __init__(self, *, live: bool) -> None:
        self.live = live
        self._out: TextIO = sys.stdout
        self._colours = live and self._out.isatty() and not os.environ.get("NO_COLOR")
        self._column = 0
        self._gap = ""
        self._held = ""

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return max(shutil.get_terminal_size((80, 24)).columns, 20)

    def notice(self, text: str = "") -> None:
        """A line about what goes on."""
        stream = self._out if self.live else sys.stderr
        shown = self._wrapped(text)
        stream.write(f"{_DIM}{shown}{_PLAIN}\n" if self._colours and shown else f"{shown}\n")
        stream.flush()

    def line(self, text: str = "") -> None:
        """A line of output."""
        self._out.write(f"{self._wrapped(text)}\n")
        self._out.flush()

    def _wrapped(self, text: str) -> str:
        """`text` cleaned; for a person, lines break between words and keep their indentation."""
        rows = clean(text).split("\n")
        if self.live:
            rows = [
                textwrap.fill(
                    row.lstrip(" "),
                    self.width - 1,
                    initial_indent=(indent := " " * (len(row) - len(row.lstrip(" ")))),
                    subsequent_indent=indent,
                    break_long_words=False,
                    break_on_hyphens=False,
                )
                for row in rows
            ]
        return "\n".join(rows)

    def ask(self, prompt: str) -> str:
        """A line from the person. Raises `EOFError` at the end and `KeyboardInterrupt` at Ctrl-C."""
        if not self._colours:
            return input(clean(prompt))
        # \x01 and \x02 tell the line editor which characters take no room.
        return input(f"\x01{_BOLD}\x02{clean(prompt)}\x01{_PLAIN}\x02")

    # -- an answer as it comes -----------------------------------------------------------------------

    def stream(self, text: str) -> None:
        """More of an answer. For a person, lines break between words."""
        if not self.live:
            self._out.write(clean(text))
        else:
            self._held += clean(text)
            *whole, self._held = re.split(r"(?<=\s)", self._held)
            for word in whole:
                self._word(word)
        self._out.flush()

    def end(self) -> None:
        """End the answer's last line."""
        self._word(self._held)
        self._held, self._gap, self._column = "", "", 0
        self._out.write("\n")
        self._out.flush()

    def _word(self, word: str) -> None:
        """Write a word with the space after it; the space waits until the next word is on the same line."""
        text = word.rstrip()
        room = cell_len(self._gap) + cell_len(text)
        if text and self._column and self._column + room > self.width - 1:
            self._out.write("\n")
            self._gap, self._column = "", 0
        if text:
            self._out.write(self._gap + text)
            self._column += cell_len(self._gap + text)
            self._gap = ""
        self._gap += word[len(text) :]
        if "\n" in self._gap:
            self._out.write("\n" * self._gap.count("\n"))
            self._gap, self._column = self._gap.rpartition("\n")[2], 0


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None, elastic: int
) -> list[str]:
    """Rows in columns, as lines. Column `elastic` is cut to fit `width`; with `None` nothing is cut."""
    cells = [[clean_line(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(cell_len(row[column]) for row in cells) for column in range(len(headers))]
    if width is not None:
        spare = width - sum(widths) - 2 * (len(widths) - 1)
        widths[elastic] = max(widths[elastic] + min(spare, 0), 8)
    return [
        "  ".join(_fit(cell, size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in cells
    ]


def _fit(cell: str, width: int) -> str:
    if cell_len(cell) <= width:
        return set_cell_size(cell, width)
    return set_cell_size(f"{set_cell_size(cell, width - 1).rstrip()}\u2026", width)


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Turn errors into one line on standard error and exit code 1, and a closed pipe into silence."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # an ASCII terminal shows "?" rather than fail
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer has nowhere to go; without this, the interpreter complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (ThreadmarkError, OSError, ImportError) as error:
        _report(str(error), error)
    except Exception as error:
        _report(f"unexpected {type(error).__name__}: {error} (THREADMARK_DEBUG=1 shows where)", error)


def _report(text: str, error: Exception) -> None:
    if os.environ.get("THREADMARK_DEBUG"):
        raise error
    sys.stderr.write(f"threadmark: {clean_line(text)}\n")
    raise SystemExit(1) from None

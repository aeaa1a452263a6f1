"""`threadmark chat` at a terminal: a real pseudo-terminal, as a person has it."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from threadmark import Memory, Message

from .conftest import COMMAND, environment

CTRL_C = "\x03"

# A terminal's Ctrl-C reaches the process whose controlling terminal it is, if that does not ignore it.
ON_A_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGINT, signal.SIG_DFL)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Session:
    """A running command on a terminal of 80 columns."""

    def __init__(self, folder: Path, *args: str, command: list[str] | None = None) -> None:
        self._master, slave = pty.openpty()
        self.seen = ""
        self._process = subprocess.Popen(
            [sys.executable, "-c", ON_A_TERMINAL, *(command or COMMAND), *args],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=folder,
            env=environment(COLUMNS="80", LINES="24", NO_COLOR="1"),
            start_new_session=True,
            close_fds=True,
        )
        os.close(slave)

    def expect(self, text: str) -> str:
        """Wait until `text` is on the screen, and return what came up to it since the last call."""
        deadline = time.monotonic() + 30
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if not self._read():
                raise AssertionError(f"ended without {text!r}: {self.seen!r}")
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def _read(self) -> bool:
        if not select.select([self._master], [], [], 0.5)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other side is gone
            return False
        # What the line editor sends to switch modes of the terminal is not on the screen.
        text = re.sub(r"\x1b\[\?\w+", "", data.decode("utf-8", "replace"))
        self.seen += text.replace("\r\n", "\n").replace("\r", "")
        return bool(data)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode("utf-8", "surrogateescape"))

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.type(CTRL_C)

    def end(self, press: str = "") -> int:
        """Wait for the command's end and return its exit code. `press` is pressed, and again after a while.

        Once is not always enough: a signal that comes in the instant between the prompt and Python's waiting
        for a key is only seen with the next key.
        """
        deadline, again = time.monotonic() + 30, time.monotonic() + 3
        self.type(press)
        while self._read() and self._process.poll() is None:
            assert time.monotonic() < deadline, self.seen
            if time.monotonic() > again:
                self.type(press)
                again += 3
        return self._process.wait(30)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._master)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Session]]:
    sessions: list[Session] = []

    def begin(*args: str, command: list[str] | None = None) -> Session:
        sessions.append(Session(tmp_path, *args, command=command))
        return sessions[-1]

    yield begin
    for session in sessions:
        session.close()


def test_a_first_and_a_second_visit(start: Callable[..., Session]) -> None:
    """Give a name, talk, leave; come back, pick the name from the list, and be remembered."""
    first = start("chat")
    assert "Memory   threadmark.db\nAnswers  offline responder" in first.expect("Who are you? A name: ")
    first.type("Ana\n")
    first.expect("Hello, Ana. Memory holds nothing of you yet.")
    first.expect("Ana> ")
    first.type("I love hiking in Japan.\n")
    first.expect("Noted: this is stored")
    first.expect("Ana> ")
    first.type("\x04")
    assert first.end() == 0

    second = start("chat")
    assert "   1  Ana: 1 conversation, the last on " in second.expect("A number, or a new name: ")
    second.type("1\n")
    second.expect("Welcome back, Ana. Memory holds 1 earlier conversation; this is a new one.")
    second.expect("Ana> ")
    second.type("Where do I like to hike?\n")
    assert "I love hiking in Japan." in second.expect("Ana> ").replace("\n", " ")
    second.type("/quit\n")
    assert second.end() == 0


def test_commands(start: Callable[..., Session]) -> None:
    """The few commands do what /help says, and an unknown one is named."""
    chat = start("chat", "--user", "ana")
    chat.expect("ana> ")
    chat.type("/help\n")
    assert {"/new", "/threads", "/forget", "/help", "/quit"} <= set(
        re.findall("/[a-z]+", chat.expect("stops"))
    )
    chat.type("/threads\n")
    chat.expect("No conversations yet.")
    chat.type("I own a boat.\n")
    chat.expect("Noted")
    chat.type("/new\n")
    chat.expect("A new conversation.")
    chat.type("I own a car.\n")
    chat.expect("Noted")
    chat.type("/threads\n")
    chat.expect("I own a car")
    chat.expect("I own a boat")
    chat.type("/nope\n")
    chat.expect("There is no command /nope")
    chat.type("/usr/bin is a folder\n")
    chat.expect("Noted")


def test_forget_asks_and_gives_a_receipt(start: Callable[..., Session], tmp_path: Path) -> None:
    """Nothing is erased without the name; with it, nothing of it is left, and others keep theirs."""
    with Memory(f"sqlite:///{tmp_path / 'threadmark.db'}") as memory:
        memory.resource("bob").thread("t").save_sync([Message.user("I am Bob.")])
    chat = start("chat", "--user", "ana")
    chat.expect("ana> ")
    chat.type("My secret is quetzalcoatl.\n")
    chat.expect("Noted")
    chat.type("/forget\n")
    assert "1 conversation with 2 messages" in chat.expect("Type the name to confirm: ")
    chat.type("yes\n")
    chat.expect("Nothing was erased.")
    chat.type("/forget\n")
    chat.expect("Type the name to confirm: ")
    chat.type("ana\n")
    assert "2 messages" in chat.expect("No byte of it is left in the database file.")
    chat.type("/quit\n")
    assert chat.end() == 0

    assert all(b"quetzalcoatl" not in path.read_bytes() for path in tmp_path.glob("threadmark.db*"))
    with Memory(f"sqlite:///{tmp_path / 'threadmark.db'}") as memory:
        assert memory.admin.resources_sync() == ["bob"]


def test_continuing_shows_where_it_was(start: Callable[..., Session], tmp_path: Path) -> None:
    """`--thread` greets with the title and the last exchange, control characters written out."""
    with Memory(f"sqlite:///{tmp_path / 'threadmark.db'}") as memory:
        user = memory.resource("ana")
        user.threads.create_sync("t", title="Boats \x1b[2J")
        user.thread("t").save_sync([Message.user("I own a boat."), Message.assistant("A fine one \x1b[2J")])
    chat = start("chat", "--user", "ana", "--thread", "t")
    seen = chat.expect("ana> ")
    assert "Continuing \u201cBoats \\x1b[2J\u201d, 2 messages so far." in seen
    assert "  ana: I own a boat.\n  assistant: A fine one \\x1b[2J\n" in seen


def test_leaving_at_the_prompts(start: Callable[..., Session]) -> None:
    """Ctrl-C at a prompt leaves without a traceback, as Ctrl-D does."""
    naming = start("chat")
    naming.expect("Who are you? A name: ")
    assert naming.end(CTRL_C) == 0
    talking = start("chat", "--user", "ana")
    talking.expect("ana> ")
    assert talking.end(CTRL_C) == 0
    assert "Traceback" not in naming.seen + talking.seen


def test_stray_bytes_from_a_terminal(start: Callable[..., Session]) -> None:
    """Bytes that are no text do not end the conversation."""
    chat = start("chat", "--user", "ana")
    chat.expect("ana> ")
    chat.type("I own a \udcff boat.\n")
    chat.expect("Noted")
    chat.expect("ana> ")


SLOW = """
import sys
import threadmark.models
from threadmark.testing import ScriptedModel

model = ScriptedModel(["one two three four five six seven eight nine ten " * 50, "after"], delay=0.02)
threadmark.models.infer_model = lambda name: model
from threadmark.cli import main
main()
"""


def test_interrupting_an_answer_keeps_the_part(start: Callable[..., Session], tmp_path: Path) -> None:
    """Ctrl-C during an answer stops it, stores what came, and the conversation goes on."""
    command = [COMMAND[0], "-c", SLOW]
    chat = start("chat", "--user", "ana", "--thread", "t", "--model", "scripted:slow", command=command)
    chat.expect("ana> ")
    chat.type("Count, please.\n")
    chat.expect("three four")
    chat.interrupt()
    chat.expect("Stopped. What came so far is stored.")
    chat.expect("ana> ")
    chat.type("And?\n")
    chat.expect("after")
    chat.type("/quit\n")
    assert chat.end() == 0

    with Memory(f"sqlite:///{tmp_path / 'threadmark.db'}") as memory:
        texts = [message.text for message in memory.resource("ana").thread("t").messages_sync()]
    assert texts[0] == "Count, please."
    assert texts[1].startswith("one two three")
    assert len(texts[1]) < 2000
    assert texts[2:] == ["And?", "after"]

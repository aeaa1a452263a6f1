"""`threadmark` behind a pipe: one answer for each line and nothing else, and one line for an error."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from threadmark import Memory, Message, ToolPart
from threadmark.offline._responder import INTRODUCTION

from .conftest import COMMAND, Run, environment

NOTED = "Noted: this is stored with this conversation."


def test_the_walk_through(threadmark: Run) -> None:
    """Talk, leave, come back in a new conversation: it is remembered, and only for that user."""
    told = threadmark("chat", "--user", "ana", input="My name is Ana.\nI love hiking in Japan.\n")
    assert (told.returncode, told.stdout) == (0, f"{INTRODUCTION}\n{NOTED}\n\n{NOTED}\n")

    asked = threadmark("chat", "--user", "ana", input="Where do I like to hike?\n")
    assert re.fullmatch(
        re.escape(INTRODUCTION) + r"\nOn \d+ \w+ \d{4} at \d\d:\d\d, in \u201cMy name is Ana\u201d, "
        r"you said: \u201cI love hiking in Japan\.\u201d\n",
        asked.stdout,
    )

    other = threadmark("chat", "--user", "bob", input="Where do I like to hike?\n")
    assert other.stdout == f"{INTRODUCTION}\nMemory holds nothing of you yet.\n"

    more = threadmark("chat", "--user", "ana", input="I also hike in Norway.\nWhere do I hike?\n")
    assert "Norway" in more.stdout
    assert "Japan" in more.stdout


def test_notices_go_to_standard_error(threadmark: Run) -> None:
    """Where memory is and what answers is said once, out of the way of the answers."""
    done = threadmark("chat", input="Hello\nHello again\n")

    assert done.stderr.count("Memory   threadmark.db") == 1
    assert done.stderr.count("offline responder") == 1
    assert "threadmark.db" not in done.stdout


def test_a_pipe_without_a_user_is_me(threadmark: Run) -> None:
    """Nobody can be asked, so the user is "me"."""
    threadmark("chat", input="I own a boat.\n")

    assert "me " in threadmark("threads").stdout


def test_continuing_a_conversation(threadmark: Run) -> None:
    """`--thread` goes on with one conversation; without it each chat is a new one."""
    for text in ("One is here.", "Two is here."):
        threadmark("chat", "--user", "ana", "--thread", "mine", input=text)
    threadmark("chat", "--user", "ana", input="Three is here.")

    rows = json.loads(threadmark("threads", "--user", "ana", "--json").stdout)
    assert [(row["title"], row["message_count"]) for row in rows] == [
        ("Three is here", 2),
        ("One is here", 4),
    ]
    assert rows[1]["id"] == "mine"


@pytest.mark.parametrize(
    ("given", "answers"),
    [
        (b"", 0),
        (b"\n \n\r\n", 0),
        (b"no newline at the end", 1),
        (b"one\n\n\ntwo\r\n", 2),
        (b"\xef\xbb\xbfa byte order mark\n", 1),
        (b"caf\xe9 \xff\xfe\x00 nul\n", 1),
        (b"\xed\xa0\x80 surrogate\n", 1),
        (b"x" * 200_000 + b"\n", 1),
    ],
    ids=["nothing", "blank", "no newline", "blanks between", "bom", "not utf-8", "surrogate", "long"],
)
def test_any_bytes_are_answered(threadmark: Run, given: bytes, answers: int) -> None:
    """Each line with something on it gets one answer, whatever its bytes."""
    done = threadmark("chat", input=given)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count(NOTED) + done.stdout.count("Memory holds") == answers


def test_a_title_without_words_is_the_day(threadmark: Run) -> None:
    """A conversation whose first message has no words is called by its date."""
    threadmark("chat", "--user", "ana", input="!!!\n")

    (row,) = json.loads(threadmark("threads", "--user", "ana", "--json").stdout)
    assert re.fullmatch(r"Conversation of \d+ \w+ \d{4}", row["title"])


@pytest.mark.parametrize(
    ("args", "env", "said"),
    [
        (("show", "nope"), {}, "there is no database 'threadmark.db'"),
        (("threads", "--db", "sqlite:///nope.db"), {}, "there is no database 'sqlite:///nope.db'"),
        (("chat", "--db", "missing/x.db"), {}, "cannot be opened"),
        (("chat", "--db", ""), {}, "--db is empty"),
        (("chat", "--db", "mysql://x"), {}, "there is no store for 'mysql' URLs"),
        (("chat", "--db", "junk"), {}, "is not a SQLite database"),
        (("chat", "--user", ""), {}, "user id must not be empty"),
        (("chat", "--model", "nonsense"), {}, "'nonsense' is not a model name"),
        (("chat",), {"THREADMARK_MODEL": "nonsense"}, "'nonsense' is not a model name"),
        (("chat", "--model", "openai:gpt-6-luna"), {}, "OPENAI_API_KEY"),
    ],
)
def test_errors_are_one_line(
    threadmark: Run, tmp_path: Path, args: tuple[str, ...], env: dict[str, str], said: str
) -> None:
    """What cannot work is said in one line, and the exit code is 1."""
    (tmp_path / "junk").write_bytes(b"not a database, by any means" * 100)

    done = threadmark(*args, input="Hello\n", env=env)

    assert done.returncode == 1
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("threadmark: ")
    assert said in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "nope.db").exists()


def test_an_unknown_conversation(threadmark: Run) -> None:
    """A foreign conversation looks like one that does not exist."""
    threadmark("chat", "--user", "ana", "--thread", "secret", input="I own a boat.")

    mine = threadmark("show", "secret", "--user", "bob")
    none = threadmark("show", "nothing", "--user", "bob")

    assert mine.returncode == none.returncode == 1
    assert mine.stderr.replace("secret", "nothing") == none.stderr


def test_wrong_use_is_exit_code_2(threadmark: Run) -> None:
    """A wrong option is wrong use, and so is no command at all, which shows the help."""
    assert threadmark("chat", "--nope").returncode == 2
    assert threadmark().returncode == 2
    assert "Usage" in threadmark("--help").stdout
    assert re.fullmatch(r"threadmark \d+\.\d+\.\d+\n", threadmark("--version").stdout)


def test_without_typer_it_says_how_to_install(tmp_path: Path) -> None:
    """Without the extra the command names the exact pip command."""
    (tmp_path / "typer.py").write_text("raise ImportError('not installed')")
    done = subprocess.run(
        COMMAND,
        capture_output=True,
        text=True,
        env=environment(PYTHONPATH=f"{tmp_path}:{environment().get('PYTHONPATH', '')}"),
    )
    assert done.returncode == 2
    assert done.stderr.strip().endswith("pip install 'threadmark[cli]'")


def test_a_closed_pipe_is_quiet(threadmark: Run, tmp_path: Path) -> None:
    """`threadmark show … | head` ends without a complaint."""
    with Memory(f"sqlite:///{tmp_path / 'threadmark.db'}") as memory:
        memory.resource("ana").thread("t").save_sync([Message.user(f"line {n} " * 30) for n in range(2000)])
    process = subprocess.Popen(
        [*COMMAND, "show", "t"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(30) == 141
    process.stderr.close()


# -- threads and show --------------------------------------------------------------------------------


def test_threads_lists_users_and_their_conversations(threadmark: Run) -> None:
    """Without a user all users with counts; with one their conversations, the newest first."""
    threadmark("chat", "--user", "ana", "--thread", "a", input="I own a boat.\nI own a car.")
    threadmark("chat", "--user", "bob", "--thread", "b", input="Hello there, my friend")

    users = threadmark("threads").stdout
    assert re.fullmatch(
        r"USER +CONVERSATIONS +MESSAGES +UPDATED\nana +1 +4 +\S+ \S+\nbob +1 +2 +\S+ \S+\n", users
    )
    one = threadmark("threads", "--user", "ana").stdout
    assert re.fullmatch(r"ID +TITLE +MESSAGES +UPDATED\na +I own a boat +4 +\S+ \S+\n", one)
    assert threadmark("threads", "--user", "eve").stdout == ""
    assert json.loads(threadmark("threads", "--user", "eve", "--json").stdout) == []
    assert [row["user"] for row in json.loads(threadmark("threads", "--json").stdout)] == ["ana", "bob"]


def test_show_is_safe_and_complete(threadmark: Run, tmp_path: Path) -> None:
    """Times, speakers and tool calls are shown; control characters are written out, never sent."""
    with Memory(f"sqlite:///{tmp_path / 'threadmark.db'}") as memory:
        user = memory.resource("ana")
        user.threads.create_sync("t", title="evil\x1b]0;title\x07")
        call = ToolPart(
            tool_call_id="1", tool_name="weather", args={"city": "Os\x1blo"}, state="result", output={"t": 3}
        )
        user.thread("t").save_sync(
            [
                Message.user("red \x1b[31m and \x9b31m and \u202e back\r\nsecond line"),
                Message(role="assistant", parts=[call]),
            ]
        )

    shown = threadmark("show", "t")
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown.stdout + shown.stderr)
    assert "evil\\x1b]0;title\\x07" in shown.stdout
    assert "  red \\x1b[31m and \\x9b31m and \\u202e back\n  second line\n" in shown.stdout
    assert '[tool weather {"city": "Os\\u001blo"} \u2192 result {"t": 3}]' in shown.stdout

    raw = threadmark("show", "t", "--json")
    assert raw.stdout.isascii()
    value = json.loads(raw.stdout)
    assert value["messages"][0]["parts"][0]["text"].startswith("red \x1b[31m and \x9b31m")
    assert value["messages"][1]["parts"][0]["tool_name"] == "weather"


def test_show_asks_for_the_user_when_there_are_several(threadmark: Run) -> None:
    """Two users may have a conversation of one id."""
    for user in ("ana", "bob"):
        threadmark("chat", "--user", user, "--thread", "t", input=f"I am {user}, hello.")

    both = threadmark("show", "t")
    assert both.returncode == 1
    assert "add --user (ana, bob)" in both.stderr
    assert "I am bob, hello." in threadmark("show", "t", "--user", "bob").stdout


def test_output_that_cannot_show_a_character(threadmark: Run) -> None:
    """An ASCII terminal gets question marks, not an error."""
    env = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = threadmark("chat", input="caf\u00e9 is nice\nWhat is nice?\n", env=env)

    assert done.returncode == 0, done.stderr
    assert "caf? is nice" in done.stdout

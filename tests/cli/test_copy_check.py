"""`threadmark copy` and `threadmark check`, as a person runs them."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

from threadmark import Memory, Message


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "threadmark.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
    )


def fill(path: Path) -> None:
    with Memory(f"sqlite:///{path}") as memory:
        for owner in ("ann", "bob"):
            memory.resource(owner).thread("t1").save_sync([Message.user("hello"), Message.assistant("hi")])


def test_copy_and_check(tmp_path: Path) -> None:
    """A copy says what it did, and the second that nothing was left to do."""
    fill(tmp_path / "a.db")
    done = run(tmp_path, "copy", "a.db", "b.db")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        "2 conversations copied, 2 conversations of 2 users equal, 0 vectors, checksum "
    )
    again = run(tmp_path, "copy", "a.db", "b.db")
    assert again.stdout == done.stdout.replace("2 conversations copied", "0 conversations copied")
    done = run(tmp_path, "check", "--db", "b.db")
    assert (done.returncode, done.stdout) == (0, "Nothing is wrong.\n")


def test_what_is_wrong_is_told_and_repaired(tmp_path: Path) -> None:
    """Without `--repair` the exit code is 1, and nothing is changed."""
    fill(tmp_path / "a.db")
    with sqlite3.connect(tmp_path / "a.db") as db:
        db.execute("UPDATE threads SET message_count = 9")
    db.close()
    for _ in range(2):
        done = run(tmp_path, "check", "--db", "a.db")
        assert (done.returncode, done.stdout) == (1, "2 threads with a wrong number of messages\n")
        assert "--repair" in done.stderr
    done = run(tmp_path, "check", "--db", "a.db", "--repair")
    assert (done.returncode, done.stdout) == (0, "2 threads with a wrong number of messages (repaired)\n")
    assert run(tmp_path, "check", "--db", "a.db").stdout == "Nothing is wrong.\n"


def test_wrong_use(tmp_path: Path) -> None:
    """Errors are one line."""
    fill(tmp_path / "a.db")
    for arguments, told in (
        (("copy", "nowhere.db", "b.db"), "there is no database 'nowhere.db'"),
        (("copy", "a.db", "sqlite:///a.db"), "the same database"),
        (("copy", "a.db", "mysql://x"), "no store for 'mysql'"),
        (("check", "--db", "nowhere.db"), "there is no database 'nowhere.db'"),
    ):
        done = run(tmp_path, *arguments)
        assert done.returncode == 1
        assert told in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "nowhere.db").exists()

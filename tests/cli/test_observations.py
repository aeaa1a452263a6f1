"""`threadmark observations`: what was noted of a conversation, and from what."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from threadmark import Memory, Message, ObservationalMemory, Speaker
from threadmark.models.base import ModelRequest
from threadmark.testing import ScriptedModel

from .conftest import Run

ANSWER = """- (high fact) Ana said: "I am allergic to peanuts". [m1] {when: 2026-03-06} {by: Ana}
- (low fact) \u202eHostile \x1b[31mtext. [m2]
NOTHING m3"""


@pytest.fixture
def noted(tmp_path: Path) -> Path:
    """A database in which Ana's conversation was observed."""

    def reply(request: ModelRequest) -> str:
        return ANSWER

    path = tmp_path / "threadmark.db"
    settings = ObservationalMemory(model=ScriptedModel(reply))
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    with Memory(f"sqlite:///{path}", observational_memory=settings, clock=lambda: at) as memory:
        thread = memory.resource("ana").thread("t1")
        ana = Speaker(id="u1", name="Ana")
        messages = [
            Message.user("Hello. I am  allergic to peanuts, you know.", id="a1", speaker=ana),
            Message.assistant("I see. What else should I know?", id="a2"),
            Message.user("Well.", id="a3"),
        ]
        thread.save_sync(messages)
        thread.observations.update_sync(force=True)
    return path


def test_what_was_noted(threadmark: Run, noted: Path) -> None:
    """Number, time, priority, kind, text, and the messages; nothing stored acts on the terminal."""
    done = threadmark("observations", "t1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == [
        "t1 of ana: 3 observations; 3 messages not covered by any",
        "",
        'o1  2026-03-01 12:00  high fact  Ana said: "I am allergic to peanuts".',
        "    said by u1; date 2026-03-06; from a1; not in view yet",
        "",
        "o2  2026-03-01 12:00  low fact  Hostile [31mtext.",
        "    from a2; not in view yet",
        "",
        "o3  2026-03-01 12:00  low  nothing to note",
        "    from a3; not in view yet",
    ]


def test_with_its_sources(threadmark: Run, noted: Path) -> None:
    """The words that a line quotes, or how its message begins; also of what holds nothing."""
    done = threadmark("observations", "t1", "--sources", "--user", "ana")
    assert "    a1  2026-03-01 12:00  Ana\n      \u201cI am allergic to peanuts\u201d" in done.stdout
    assert "      I see. What else should I know?" in done.stdout
    assert "nothing to note" in done.stdout


def test_as_json(threadmark: Run, noted: Path) -> None:
    """All of it, for programs."""
    value = json.loads(threadmark("observations", "t1", "--json", "--sources").stdout)
    assert value["id"] == "t1"
    assert (value["log"]["observed_seq"], value["log"]["visible_seq"]) == (3, 0)
    assert (
        json.loads(threadmark("observations", "t1", "--json", "--view", "current").stdout)["observations"]
        == []
    )
    first = value["observations"][0]
    assert first["sources"] == [{"message_id": "a1", "part": 0, "start": 7, "end": 32}]
    assert first["said"][0]["id"] == "a1"


def test_what_is_not_there(threadmark: Run, noted: Path) -> None:
    """An unknown conversation or view is one line of error."""
    for arguments, text in (
        (("t2",), "there is no conversation 't2'"),
        (("t1", "--user", "bob"), "there is no conversation 't1'"),
        (("t1", "--view", "some"), "--view must be one of"),
    ):
        done = threadmark("observations", *arguments)
        assert done.returncode == 1
        assert text in done.stderr
        assert len(done.stderr.splitlines()) == 1

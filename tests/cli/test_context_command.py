"""`threadmark context`: what a model would see, in text, in JSON and in colour."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest

from threadmark import Memory, Message, Speaker, ToolPart, WorkingMemory
from threadmark._sync import run_sync
from threadmark.cli._context import show_context
from threadmark.stores.base import (
    Covered,
    JobClaim,
    NewObservation,
    ObservationCommit,
    ObservationStore,
    Source,
    message_digest,
)

from .conftest import Run

SPECIAL = "\x1b[31mred\x1b[0m and <b>bold</b>"


def fill(folder: Path, *, turns: int = 3, working_memory: bool | WorkingMemory = True) -> None:
    """A conversation "trip" of ana's."""
    with Memory(f"sqlite:///{folder / 'threadmark.db'}", working_memory=working_memory) as memory:
        user = memory.resource("ana")
        user.threads.create_sync("trip", title="Trip to Oslo")
        if working_memory is True:
            user.working_memory.set_sync("# Ana\n- likes tea\n- one\n- two")
        elif working_memory:
            user.thread("trip").working_memory.set_sync("# The trip")
        for number in range(turns):
            speaker = Speaker(id="a1", name="Ana") if number == 0 else None
            asked = Message.user(f"Question {number}? {SPECIAL}", speaker=speaker)
            turn = memory.open_turn_sync(resource="ana", thread="trip", input=[asked])
            turn.prompt()
            call = ToolPart(tool_call_id="c", tool_name="look", args={"x": 1}, state="result", output="seen")
            answer = Message(role="assistant", parts=[call, *Message.assistant(f"Answer {number}.").parts])
            run_sync(turn.commit(answer))


def test_blocks_with_tokens_and_reasons(threadmark: Run, tmp_path: Path) -> None:
    """Each block of the prompt in its order, where the stable part ends, and the whole; safe to look at."""
    fill(tmp_path)
    done = threadmark("context", "trip", "--user", "ana", "--message", "And Sunday?")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    rows = done.stdout.splitlines()
    assert rows[:2] == ["Trip to Oslo", "trip of ana, 6 messages"]
    heads = [row.split()[0] for row in rows if " tokens  " in row]
    assert heads == ["instructions", "working_memory", "history", "input"]
    for text in (
        '<working_memory version="1">',
        "[4 more lines]",
        '<turn author_id="a1" author_name="Ana">',
        '[tool look {"x": 1} \u2192 seen]',
        "Question 1? \\x1b[31mred\\x1b[0m and <b>bold</b>",
        "And Sunday?",
    ):
        assert text in done.stdout
    marks = [number for number, row in enumerate(rows) if "stable up to here" in row]
    assert len(marks) == 1
    assert rows[marks[0] + 1].startswith("input")
    assert "tokens, estimated" in done.stdout


def test_full_shows_every_line(threadmark: Run, tmp_path: Path) -> None:
    """Without `--full` long texts are cut, with it nothing is."""
    fill(tmp_path)
    assert "- two" not in threadmark("context", "trip").stdout
    done = threadmark("context", "trip", "--full").stdout
    assert "- two" in done
    assert "more line" not in done
    assert "(your next message)" in done


def test_json(threadmark: Run, tmp_path: Path) -> None:
    """The same for programs: every text whole, and the sums add up."""
    fill(tmp_path)
    told = json.loads(threadmark("context", "trip", "--json").stdout)
    assert told["tokens"] == sum(block["tokens"] for block in told["blocks"])
    assert told["stable_tokens"] == sum(block["tokens"] for block in told["blocks"] if block["stable"])
    assert [block["kind"] for block in told["blocks"]] == [
        "instructions", "working_memory", "history", "input",
    ]  # fmt: skip
    history = told["blocks"][2]
    assert [message["role"] for message in history["messages"]] == ["user", "assistant"] * 3
    assert "- two" in told["blocks"][1]["text"]
    assert (told["budget"], told["dropped"], told["breaks"]) == (None, [], [])


def test_a_budget_and_a_window(threadmark: Run, tmp_path: Path) -> None:
    """`--max-tokens` and `--last-messages` are as in the memory's options; what is left out is said."""
    fill(tmp_path, turns=12)
    done = threadmark("context", "trip", "--max-tokens", "420").stdout
    assert "Left out by the budget: " in done
    assert "Does not begin like the prompt before: budget: the oldest" in done
    assert "of at most 420, estimated" in done
    assert "Over the budget" in threadmark("context", "trip", "--max-tokens", "1").stdout
    assert "Question" not in threadmark("context", "trip", "--last-messages", "0").stdout


def test_working_memory_of_the_thread_or_none(threadmark: Run, tmp_path: Path) -> None:
    """What there is, is shown: that of the thread, or no block at all."""
    (tmp_path / "a").mkdir()
    fill(tmp_path / "a", working_memory=WorkingMemory(scope="thread"))
    assert "# The trip" in threadmark("context", "trip", "--db", "a/threadmark.db").stdout
    (tmp_path / "b").mkdir()
    fill(tmp_path / "b", working_memory=False)
    assert "working_memory" not in threadmark("context", "trip", "--db", "b/threadmark.db", "--json").stdout


def test_it_changes_nothing(threadmark: Run, tmp_path: Path) -> None:
    """Looking at it stores nothing."""
    fill(tmp_path)
    before = threadmark("show", "trip", "--json").stdout
    threadmark("context", "trip", "--message", "Hello")
    assert threadmark("show", "trip", "--json").stdout == before


def test_errors(threadmark: Run, tmp_path: Path) -> None:
    """A foreign conversation looks like one that does not exist; an empty message is refused."""
    fill(tmp_path)
    mine = threadmark("context", "trip", "--user", "bob")
    none = threadmark("context", "nothing", "--user", "bob")
    assert mine.returncode == none.returncode == 1
    assert mine.stderr.replace("trip", "nothing") == none.stderr
    assert "--message is empty" in threadmark("context", "trip", "--message", " ").stderr
    assert threadmark("context", "trip", "--last-messages", "-1").returncode == 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("variable", [None, "NO_COLOR", "TERM"])
def test_colours_at_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None) -> None:
    """A colour for each kind of block, and a bar of them; none where nobody wants colours."""
    fill(tmp_path)
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, "dumb")
    show_context(
        thread="trip", user=None, message="And Sunday?", last_messages=None, max_tokens=None, full=False,
        db=str(tmp_path / "threadmark.db"), as_json=False,
    )  # fmt: skip
    shown = terminal.getvalue()
    assert ("\x1b[1m\x1b[32mhistory" in shown) == (variable is None)
    assert ("\u2588" in shown) == (variable is None)
    assert ("\x1b" in shown) == (variable is None)
    assert "\x1b[31mred" not in shown
    import re

    rows = re.sub(r"\x1b\[\d+m", "", shown).splitlines()
    assert all(len(row) <= 70 for row in rows if "\u2502" in row)


async def observe(folder: Path) -> None:
    """Note something of the first two messages of the conversation."""
    async with Memory(f"sqlite:///{folder / 'threadmark.db'}") as memory:
        messages = (await memory.resource("ana").thread("trip").messages(per_page=2, order="asc")).messages
        now = memory.now()
        claim = JobClaim(
            thread_id="trip", kind="observe", id="j", from_seq=1, to_seq=2, prompt="p", holder="h",
            now=now, until=now + timedelta(minutes=1),
        )  # fmt: skip
        store = cast("ObservationStore", memory.store)
        job = await store.claim_observation_job("ana", claim)
        assert job is not None
        row = NewObservation(
            kind="fact",
            priority="high",
            text="Ana goes to Oslo.",
            tokens=5,
            sources=tuple([Source(message_id=message.id) for message in messages]),
        )
        covered = tuple(
            [Covered(message_id=message.id, digest=message_digest(message)) for message in messages]
        )
        await store.commit_observations(
            "ana",
            ObservationCommit(
                thread_id="trip", job_id=job.id, fence=job.fence, now=memory.now(), rows=(row,),
                covered=covered, activate=True,
            ),
        )  # fmt: skip


def test_observations_are_shown_in_place_of_what_they_cover(threadmark: Run, tmp_path: Path) -> None:
    """If a thread was observed, its log stands in the prompt, and the messages it covers do not."""
    fill(tmp_path)
    run_sync(observe(tmp_path))
    told = json.loads(threadmark("context", "trip", "--json").stdout)
    kinds = [block["kind"] for block in told["blocks"]]
    assert "observations" in kinds
    assert "Ana goes to Oslo." in told["blocks"][kinds.index("observations")]["text"]
    assert len(told["blocks"][kinds.index("history")]["messages"]) == 4
    assert "Ana goes to Oslo." in threadmark("context", "trip", "--full").stdout


def test_what_would_be_recalled_is_shown_for_a_message(threadmark: Run, tmp_path: Path) -> None:
    """If the database has an index; without a message there is nothing to look for. Nothing is written."""
    path = tmp_path / "threadmark.db"
    with Memory(f"sqlite:///{path}", semantic_recall=True) as memory:
        memory.resource("ana").thread("old").save_sync("My sister Maria lives in Bergen.")
        memory.resource("ana").thread("trip").save_sync("Question 1 about trains?")
        memory.settled_sync()
    before = path.read_bytes()
    done = threadmark("context", "trip", "--message", "Where does Maria live?", "--full").stdout
    assert "lives in Bergen" in done
    heads = [row.split()[0] for row in done.splitlines() if " tokens  " in row]
    assert heads[-3:] == ["history", "recalled", "input"]
    cut = threadmark("context", "trip", "--message", "Where does Maria live?").stdout
    assert max(len(row) for row in cut.splitlines()) <= 100
    assert "recalled" not in threadmark("context", "trip").stdout
    assert path.read_bytes() == before

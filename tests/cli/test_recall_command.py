"""`threadmark recall`: hits with reasons, in text and in JSON, and the state of the index."""

from __future__ import annotations

import json
from pathlib import Path

from threadmark import Memory, Message, Speaker

from .conftest import Run


def fill(folder: Path) -> None:
    with Memory(f"sqlite:///{folder / 'threadmark.db'}") as memory:
        memory.resource("ana").thread("pets").save_sync(
            [
                Message.user(
                    "My puppy is called \x1b[31mBiscuit\x1b[0m.", speaker=Speaker(id="a", name="Ana")
                ),
                Message.assistant("What a name!\nReally."),
            ]
        )


def test_hits_say_why(threadmark: Run, tmp_path: Path) -> None:
    """Each hit has its score with its parts, words and neighbours; nothing stored acts on a terminal."""
    fill(tmp_path)
    done = threadmark("recall", "What is the puppy called?", "--mode", "lexical", "--top", "1")
    assert done.returncode == 0
    assert "score" in done.stdout
    assert "lexical" in done.stdout
    assert "puppi" in done.stdout
    assert "> Ana: My puppy is called" in done.stdout
    assert "assistant: What a name!" in done.stdout
    assert "\x1b" not in done.stdout


def test_json_and_nothing_found(threadmark: Run, tmp_path: Path) -> None:
    """JSON has everything a program needs; nothing found is no error."""
    fill(tmp_path)
    found = json.loads(threadmark("recall", "puppy", "--user", "ana", "--json").stdout)
    assert found["hits"][0]["rank"] == 1
    assert found["hits"][0]["scores"]["lexical"] > 0
    assert len(found["hits"][0]["window"]) == 2
    done = threadmark("recall", "xylophone", "--mode", "lexical")
    assert done.returncode == 0
    assert "Nothing found in 2 messages of ana" in done.stdout + done.stderr


def test_the_state_of_the_index(threadmark: Run, tmp_path: Path) -> None:
    """Before the first search the index is off; after it, it says how far it is."""
    fill(tmp_path)
    done = threadmark("recall", "--status")
    assert "off" in done.stdout + done.stderr
    threadmark("recall", "puppy")
    assert "2 of 2 messages indexed" in threadmark("recall", "--status").stdout
    state = json.loads(threadmark("recall", "--status", "--json").stdout)
    assert (state["enabled"], state["indexed"]) == (True, 2)
    assert all(embedder["waiting"] == 0 for embedder in state["embedders"])


def test_what_is_wrong_is_said(threadmark: Run, tmp_path: Path) -> None:
    """No query, several users, an unknown mode, an empty query: an error that says what to do."""
    fill(tmp_path)
    assert threadmark("recall").returncode != 0
    assert threadmark("recall", "x", "--status").returncode != 0
    assert "lexical" in threadmark("recall", "x", "--mode", "odd").stderr
    assert "empty" in threadmark("recall", " ").stderr
    with Memory(f"sqlite:///{tmp_path / 'threadmark.db'}") as memory:
        memory.resource("ben").thread("t").save_sync("Hello")
    assert "--user" in threadmark("recall", "puppy").stderr

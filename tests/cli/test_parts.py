"""The parts of the command line that need no process: choosing a model, searching memory, laying out text."""

from __future__ import annotations

import io
import typing
from pathlib import Path

import pytest

from threadmark import Memory, Message, ToolPart
from threadmark.cli import _models
from threadmark.cli._chat import INSTRUCTIONS, Chat, answerer, run, title_of
from threadmark.cli._models import PROVIDERS, Choice, choose
from threadmark.cli._terminal import Screen, clean, clean_line, table
from threadmark.testing import ScriptedModel, ToolCall

# -- choosing a model --------------------------------------------------------------------------------


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The modules that count as installed."""
    names = {"pydantic_ai", "openai"}
    monkeypatch.setattr(_models, "_installed", names.__contains__)
    return names


def test_what_is_asked_for_wins(installed: set[str]) -> None:
    """`--model` beats every key."""
    assert choose("openai:x", {"ANTHROPIC_API_KEY": "k"}) == Choice("openai:x")
    assert choose("offline", {"OPENAI_API_KEY": "k"}).name == "offline"


def test_the_first_key_with_its_package(installed: set[str]) -> None:
    """A key brings its provider's model, if the package is there."""
    assert choose(None, {"OPENAI_API_KEY": "k"}).name.startswith("openai:")
    assert choose(None, {"ANTHROPIC_API_KEY": "k", "OPENAI_API_KEY": "k"}).name.startswith("openai:")
    assert choose(None, {"OPENAI_API_KEY": ""}).name == "offline"
    installed.add("google.genai")
    assert choose(None, {"GEMINI_API_KEY": "k"}).name.startswith("google:")


def test_a_key_without_its_package(installed: set[str]) -> None:
    """Then the hint is the command that installs it, and the chat goes on offline."""
    choice = choose(None, {"ANTHROPIC_API_KEY": "k"})

    assert choice.name == "offline"
    assert choice.hint == (
        "ANTHROPIC_API_KEY is set, but its package is missing; run: pip install 'threadmark[anthropic]'"
    )


def test_installed_looks_for_the_module() -> None:
    """A module inside a package that is not there is not there."""
    assert _models._installed("json.decoder")
    assert not _models._installed("no_such_package.module")


def test_the_defaults_exist() -> None:
    """Every default is a model that the installed provider library knows."""
    from pydantic_ai.models import KnownModelName

    known = set(typing.get_args(KnownModelName.__value__))
    assert {model for _, model, _, _ in PROVIDERS} <= known


# -- a real model's way to memory --------------------------------------------------------------------


def test_a_model_searches_only_this_users_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model gets the tool `search_memory`, which quotes earlier conversations of this user alone."""
    model = ScriptedModel([ToolCall("search_memory", {"query": "hiking"}), "You love hiking in Japan."])
    monkeypatch.setattr("threadmark.models.infer_model", lambda name: model)
    with Memory("sqlite://") as memory:
        memory.resource("ana").thread("old").save_sync([Message.user("I love hiking in Japan.")])
        memory.resource("bob").thread("old").save_sync([Message.user("I hate hiking in Norway.")])
        make = answerer(Choice("openai:x"), memory)

        chat = Chat(memory, "ana", "new", make, Screen(live=False))
        chat.answer_lines(iter(["Where do I like to hike?"]))

        assert capsys.readouterr().out == "You love hiking in Japan.\n"
        first, second = model.requests
        assert first.instructions == INSTRUCTIONS
        assert [tool.name for tool in first.tools] == ["search_memory"]
        (call,) = [part for part in second.messages[-1].parts if isinstance(part, ToolPart)]
        assert [(hit["who"], hit["text"]) for hit in call.output] == [("user", "I love hiking in Japan.")]


def test_each_talk_adds_to_what_a_model_knows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What a model noted of a user in one chat it sees in the next, and not in another user's."""
    note = ToolCall("update_working_memory", {"memory": "# Ana\n- lives in Rome"})
    model = ScriptedModel([note, "Noted.", "You live in Rome.", "I do not know."])
    monkeypatch.setattr("threadmark.models.infer_model", lambda name: model)
    for user, text in (("ana", "I live in Rome."), ("ana", "Where do I live?"), ("bob", "Where do I live?")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{text}\n".encode())))
        run(user=user, thread=None, model="openai:x", db=str(tmp_path / "chat.db"))

    assert capsys.readouterr().out == "Noted.\nYou live in Rome.\nI do not know.\n"
    seen = [str(request.messages) for request in model.requests]
    assert "lives in Rome" in seen[2]
    assert "Rome" not in seen[3]


def test_the_local_model_gets_no_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is too small to use any."""
    model = ScriptedModel(["Yes."])
    monkeypatch.setattr("threadmark.models.infer_model", lambda name: model)
    with Memory("sqlite://") as memory:
        answerer(Choice("local"), memory)(memory.resource("ana")).generate_sync(
            "Hello", resource="ana", thread="t"
        )
    assert model.requests[0].tools == ()


# -- laying out text ---------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [*range(32), *range(127, 160), 0x202E, 0x2066, 0xD800])
def test_no_control_character_gets_through(code: int) -> None:
    """Control characters are written out; tab and line feed stay in running text."""
    if code in (9, 10):
        assert clean(chr(code)) == chr(code)
    else:
        assert clean(chr(code)).isascii()
        assert clean(chr(code)).isprintable()
    assert clean_line(f"a{chr(code)}b").isprintable()


def test_tables_fit_and_count_wide_characters() -> None:
    """The elastic column gives way; a Chinese character takes two columns."""
    lines = table(("ID", "TITLE"), [("1", "x" * 100), ("2", "\u732b" * 60)], width=30, elastic=1)
    assert lines[1] == "1   " + "x" * 25 + "\u2026"
    assert lines[2] == "2   " + "\u732b" * 12 + "\u2026"
    assert table(("A", "B"), [("long", "x" * 100)], width=None, elastic=1)[1].endswith("x" * 100)


def test_answers_break_between_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At a terminal lines end between words, however the text arrives; behind a pipe they stay."""
    monkeypatch.setenv("COLUMNS", "30")
    text = "The quick brown fox jumps over the lazy dog.\n\n    code stays\n" + "x" * 50 + " end"
    for size in (1, 3, 7, 100):
        screen = Screen(live=True)
        for start in range(0, len(text), size):
            screen.stream(text[start : start + size])
        screen.end()
        assert capsys.readouterr().out == (
            "The quick brown fox jumps\nover the lazy dog.\n\n    code stays\n" + "x" * 50 + "\nend\n"
        )
    screen = Screen(live=False)
    screen.stream(text)
    screen.end()
    assert capsys.readouterr().out == text + "\n"


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("My name is Ana.", "My name is Ana"),
        ("Where is it?", ""),
        ("Hello!", ""),
        ("Hello, I am Ana", "Hello, I am Ana"),
        ("first\nsecond", "first"),
        ("word " * 30, "word " * 9 + "word\u2026"),
        ("x" * 100, "x" * 49 + "\u2026"),
        ("...", ""),
        ("\x1b[2Jred", "\\x1b[2Jred"),
    ],
)
def test_titles(text: str, title: str) -> None:
    """A title is the first line of the first message, cut between words."""
    assert title_of(text) == title

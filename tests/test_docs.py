"""The README's and the documentation's examples are executed as they stand, and say what they print."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_args

import pytest

import threadmark
from threadmark.agents.events import Event
from threadmark.agents.options import CallOptions
from threadmark.memory.options import MemoryOptions
from threadmark.models.base import Model, ModelRequest
from threadmark.testing import ScriptedModel, ToolCall

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

# What differs from run to run: conversations' ids, dates, times, and the width of columns.
_VARYING = [
    (re.compile(r"\b\d{4}-\d\d-\d\d-[a-z0-9]{5}\b"), "ID"),
    (re.compile(r"\b\d{4}-\d\d-\d\d\b"), "DAY"),
    (re.compile(r"\b\d{1,2} [A-Z][a-z]+ \d{4}\b"), "DAY"),
    (re.compile(r"\b\d\d:\d\d\b"), "TIME"),
    (re.compile(r" +"), " "),
]


@dataclass
class Block:
    """A fenced block of a page: its language, its text, where it begins, and the replies given before it."""

    page: Path
    language: str
    text: str
    line: int
    replies: list[str]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    replies: list[str] = []
    for match in re.finditer(r"^<!-- model:\n(.*?)\n-->$|^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        if match[2] is None:
            replies = match[1].splitlines()
            continue
        line = text[: match.start(3)].count("\n")
        found.append(Block(page, match[2], match[3], line, replies))
        replies = []
    return found


def same(text: str) -> list[str]:
    """The lines of `text` without what differs from run to run."""
    for pattern, name in _VARYING:
        text = pattern.sub(name, text)
    return [line.rstrip() for line in text.rstrip("\n").split("\n")]


class Script:
    """In place of every provider's model: answers with the replies that a page gives before a block."""

    def __init__(self) -> None:
        self.replies: deque[str] = deque()

    def infer(self, model: object) -> Model:
        return model if isinstance(model, Model) else ScriptedModel(self._answer, name=str(model))

    def _answer(self, request: ModelRequest) -> str | ToolCall:
        assert self.replies, f"the page has no reply for {request.messages[-1].text!r}"
        reply = self.replies.popleft()
        call = re.fullmatch(r"([\w-]+) (\{.*\})", reply)
        return ToolCall(call[1], json.loads(call[2])) if call else reply


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    """Every python block of a page runs, in order, in one namespace, and prints what `# →` comments say."""
    script = Script()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setattr("threadmark.models.infer_model", script.infer)
    names: dict[str, Any] = {"__name__": page.stem}

    database = request.getfixturevalue("postgres") if page.stem == "postgres" else ""

    async def run() -> None:
        for block in blocks(page):
            if block.language == "sql":
                run_sql(block.text, database)
            if block.language != "python":
                continue
            script.replies.extend(block.replies)
            text = block.text.replace("postgresql://app@localhost/shop", database)
            source = "\n" * block.line + text
            flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            result = eval(compile(source, str(page), "exec", flags=flags, dont_inherit=True), names)
            if asyncio.iscoroutine(result):
                await result
            told = re.findall(r"# → ?(.*)$", block.text, re.M)
            printed = capsys.readouterr().out
            assert same(printed) == (same("\n".join(told)) if told else [""]), f"{page.name}:{block.line}"
            assert not script.replies, f"{page.name}:{block.line} left replies unused: {script.replies}"

    asyncio.run(run())
    if database:
        run_sql("DROP SCHEMA threadmark CASCADE; DROP ROLE app", database)


def run_sql(text: str, database: str) -> None:
    """Run a block of SQL as it stands."""
    import psycopg

    with psycopg.connect(database, autocommit=True) as db:
        db.execute(text)


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """An environment in which `threadmark` is this one, without provider keys."""
    command = tmp_path / "bin" / "threadmark"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m threadmark.cli "$@"\n')
    command.chmod(0o755)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.endswith("_API_KEY") and not name.startswith("THREADMARK_")
    }
    return {**kept, "TZ": "UTC", "PATH": f"{command.parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shell_examples(page: Path, tmp_path: Path, shell: dict[str, str]) -> None:
    """Every sh block that uses `threadmark` runs, and prints what the `text` block after it says."""
    all_blocks = blocks(page)
    folder = tmp_path / "work"
    folder.mkdir()
    for block, following in zip_longest(all_blocks, all_blocks[1:]):
        if block is None or block.language != "sh" or "threadmark" not in block.text:
            continue
        # Installing is what `.ci/run` tests; here the command is installed already.
        source = re.sub(r"python3 -m venv .*? && (?=\.venv/bin/threadmark)", "", block.text)
        done = subprocess.run(
            ["sh", "-e", "-c", source.replace(".venv/bin/threadmark", "threadmark")],
            input="Hello\n",
            capture_output=True,
            text=True,
            cwd=folder,
            env=shell,
            timeout=120,
        )
        where = f"{page.name}:{block.line}"
        assert done.returncode == 0, (where, done.stderr)
        if following is not None and following.language == "text":
            assert same(done.stdout) == same(following.text), where


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_programs(example: Path, tmp_path: Path, shell: dict[str, str]) -> None:
    """Every program in `examples/` runs without a key, and complains about nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=shell,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


# -- what the pages say is true ----------------------------------------------------------------------


def test_the_first_two_shell_blocks() -> None:
    """The README's first block runs the chat; its second is the test command, which CI runs to the letter."""
    first, second = [block.text.strip() for block in blocks(ROOT / "README.md") if block.language == "sh"][:2]
    assert first.endswith(".venv/bin/threadmark chat")
    command = second.splitlines()[-1]
    assert command.endswith("-m pytest")
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("page", [*PAGES, *ROOT.glob("*.md")], ids=lambda page: page.name)
def test_links(page: Path) -> None:
    """Links within the repository lead somewhere."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_in_the_index() -> None:
    """docs/index.md leads to every other page."""
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert {page.name for page in PAGES[1:]} - {"index.md"} == set(re.findall(r"\]\(([\w-]+\.md)\)", index))


def test_extras_exist() -> None:
    """Every `threadmark[extra]` that a page or a message names is in pyproject.toml."""
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    texts = [page.read_text(encoding="utf-8") for page in [*PAGES, *(ROOT / "src").rglob("*.py")]]
    named = {
        name
        for text in texts
        for names in re.findall(r"threadmark\[([\w,]+)\]", text)
        for name in names.split(",")
    }
    assert named <= set(extras)


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_public_names_are_documented() -> None:
    """Every name of `threadmark.__all__` is on some page, as code."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    code = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`]+`|```.*?```", text, re.S))))
    assert set(threadmark.__all__) <= code


def test_options_are_documented() -> None:
    """Every option of memory and of a call has its row."""
    assert set(MemoryOptions.__annotations__) <= set(re.findall(r"^\| `(\w+)`", page("memory.md"), re.M))
    own = CallOptions.__annotations__.keys() - MemoryOptions.__annotations__.keys()
    assert own <= set(re.findall(r"^\| `(\w+)`", page("agents.md"), re.M))


def test_events_are_documented() -> None:
    """Every type of event is in the table."""
    section = page("agents.md").partition("## Streams")[2].partition("\n## ")[0]
    assert {kind.type for kind in get_args(Event)} == set(re.findall(r"^\| `([a-z-]+)` \|", section, re.M))


def test_the_schema_is_documented(tmp_path: Path) -> None:
    """docs/storage.md has every table and every column of a new database, and no others."""
    import sqlite3

    with threadmark.Memory(f"sqlite:///{tmp_path / 'a.db'}"):
        pass
    with sqlite3.connect(tmp_path / "a.db") as db:
        real: dict[str, set[str]] = {}
        for (table,) in db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ):
            real[table] = {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
    db.close()
    told: dict[str, set[str]] = {}
    for section in re.split(r"^### ", page("storage.md"), flags=re.M)[1:]:
        name = re.match(r"`(\w+)`", section)
        if name:
            table = section.split("\n## ")[0]
            rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", table, re.M)
            told[name[1]] = set(re.findall(r"\w+", " ".join(rows)))
    assert told == real


def test_the_command_line_is_documented() -> None:
    """docs/cli.md has every command, option and environment variable, each with its help."""
    import typer.main

    from threadmark.cli._app import app

    text = page("cli.md")
    group = typer.main.get_command(app)
    commands = dict(group.commands)  # type: ignore[attr-defined]
    assert set(commands) == set(re.findall(r"^## `threadmark (\w+)", text, re.M))
    for name, command in commands.items():
        section = re.split(rf"^## `threadmark {name}\b", text, flags=re.M)[1].split("\n## ")[0]
        told = set(re.findall(r"^\| `(--[\w-]+|[A-Z]+)", section, re.M))
        real = {
            parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.opts[0].upper()
            for parameter in command.params
        }
        assert told == real - {"--help"}, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name} has no help"
            if variable := getattr(parameter, "envvar", None):
                assert f"`{variable}`" in section


def test_errors_are_documented() -> None:
    """Every error of the public door is in the table of errors."""
    errors = {name for name in threadmark.__all__ if name.endswith("Error")}
    assert errors == set(re.findall(r"^\| `(\w+Error)`", page("memory.md"), re.M))


def test_promises_name_tests_that_exist() -> None:
    """Each promise in docs/design.md names the tests that hold it, and they are there."""
    named = re.findall(r"`(tests/[\w/.]+\.py)(?:::(\w+))?`", page("design.md"))
    assert len(named) >= 10
    for path, function in named:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert not function or f"def {function}(" in source, f"{path} has no {function}"

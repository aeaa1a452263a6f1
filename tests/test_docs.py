"""The README's and the documentation's examples are run as they stand."""

from __future__ import annotations

import ast
import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from threadmark.models.base import Model, ModelRequest
from threadmark.testing import ScriptedModel

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The page's fenced blocks in `language`, each keeping its line numbers."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.M | re.S):
        lines = text[: match.start(1)].count("\n")
        found.append("\n" * lines + match.group(1))
    return found


def scripted(model: object) -> Model:
    """In place of a provider's model: answers anything, so that examples run without a key."""
    return model if isinstance(model, Model) else ScriptedModel(_answer, name=str(model))


def _answer(request: ModelRequest) -> str:
    return f"You said: {request.messages[-1].text}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every python block of a page runs, one after the other, in one namespace."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("threadmark.models.infer_model", scripted)
    sources = blocks(page, "python")
    if not sources:
        return
    names: dict[str, Any] = {"__name__": page.stem}

    async def run() -> None:
        for source in sources:
            code = compile(source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, names)
            if asyncio.iscoroutine(result):
                await result

    asyncio.run(run())


def test_ci_runs_the_readme_s_test_command() -> None:
    """What the README tells people to run is what CI runs, to the letter."""
    command = blocks(ROOT / "README.md", "sh")[1].strip().splitlines()[-1]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")

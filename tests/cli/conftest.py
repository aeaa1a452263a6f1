"""Running the command as a person or a program would: in a process of its own, without provider keys."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-W", "error", "-m", "threadmark.cli"]

Run = Callable[..., subprocess.CompletedProcess[str]]


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without what would choose a model or a database."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.endswith("_API_KEY") and not name.startswith(("THREADMARK_", "NO_COLOR", "COLUMNS"))
    }
    return {**kept, "TZ": "UTC", "TERM": "xterm", **extra}


@pytest.fixture
def threadmark(tmp_path: Path) -> Run:
    """`threadmark ARGS` in an empty folder; `input` is text or bytes for its standard input."""

    def run(
        *args: str, input: str | bytes = b"", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, *args],
            input=input.encode() if isinstance(input, str) else input,
            capture_output=True,
            cwd=tmp_path,
            env=environment(**(env or {})),
            timeout=60,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    return run

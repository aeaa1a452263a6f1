"""Cheap child processes: one process that has everything imported, and forks on request.

A fork of it takes a few milliseconds where a fresh interpreter takes half a second, and since it runs
no threads, forking it is safe. A child stays unreaped until `wait`, so its id cannot pass to another.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Zygote:
    """The forking process, as its parent sees it. Children write their errors to `log`."""

    def __init__(self, log: Path) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([p for p in sys.path if p])},
            )
        self._alive: set[int] = set()

    def start(self, function: str, *args: object) -> int:
        """Run `module:function(*args)` in a child. Its process id."""
        pid = self._ask({"start": function, "args": args})
        self._alive.add(pid)
        return pid

    def kill(self, pid: int) -> None:
        """SIGKILL a child, and wait until it is gone."""
        assert pid in self._alive
        os.kill(pid, signal.SIGKILL)
        self.wait(pid)

    def wait(self, pid: int) -> int:
        """Wait for the end of a child: its exit code, or minus the signal that ended it."""
        self._alive.discard(pid)
        return os.waitstatus_to_exitcode(self._ask({"wait": pid}))

    def errors(self) -> str:
        """What the children wrote to their standard error."""
        return self._log.read_text(errors="replace")

    def _ask(self, question: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise AssertionError(f"the forking process ended:\n{self.errors()}")
        return int(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for pid in list(self._alive):
            self.kill(pid)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


def serve() -> None:
    """Fork and wait as told, one line of JSON per request."""
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitpid(request["wait"], 0)[1]
        else:
            module, _, name = request["start"].partition(":")
            function = getattr(importlib.import_module(module), name)
            answer = os.fork()
            if answer == 0:
                signal.alarm(300)  # a child that hangs ends, and its test fails rather than waits
                try:
                    function(*request["args"])
                    os._exit(0)
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                    os._exit(1)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    import workers  # noqa: F401 - and with it everything that a child needs

    serve()

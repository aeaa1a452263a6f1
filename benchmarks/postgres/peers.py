"""A turn beside `@mastra/pg`, which is installed with npm in a folder that is removed afterwards.

Three kinds of turn, each through the public classes of both sides: a whole turn of an agent whose model
answers at once, with the last 20 messages; the same without the agent, reading 20 and saving two; only saving
two. Each writer has a thread of its own. Both sides run one after the other on the same server, in turns,
with the same texts and as many connections.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict

TEXTS = ("My favourite colour is blue, and I live in Kyoto.", "Noted. " + "You like blue. " * 16)
PACKAGES = ("@mastra/pg", "@mastra/core", "@mastra/memory")
SCHEMAS = {"threadmark": "bench_ours", "@mastra/pg": "bench_mastra"}
POOL = 20
"""Connections of a process: @mastra/pg's default."""
KINDS = ("agent", "read and save", "save")
SHAPES = ((1, 1), (1, 8), (4, 8))
"""Processes, and writers in each."""


@dataclass(frozen=True)
class Speed:
    """One round: turns a second, milliseconds of the median and the slowest hundredth, CPU of the clients."""

    rate: float
    median: float
    p99: float
    cpu_ms: float


def measure(side: str, url: str, modules: Path, what: str, shape: tuple[int, int], seconds: float) -> Speed:
    """One round of one side."""
    processes, writers = shape
    started = []
    for process in range(processes):
        given: dict[str, Any] = {
            "schema": SCHEMAS[side],
            "threads": [f"{what} {processes} {process}.{n}" for n in range(writers)],
            "seconds": seconds,
            "pool": POOL,
            "what": what,
            "texts": TEXTS,
        }
        if side == "threadmark":
            command = [sys.executable, "-m", "benchmarks.postgres.peer", json.dumps({**given, "url": url})]
        else:
            script = Path(__file__).with_name("mastra.mjs")
            given |= {"modules": str(modules), "connection": _connection(url)}
            command = ["node", str(script), json.dumps(given)]
        one = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(one)
        _await_ready(one)  # one after the other, for only the first makes the schema
    for one in started:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    found = [json.loads(one.communicate()[0].strip().splitlines()[-1]) for one in started]
    for answer in found:
        if answer["errors"]:
            print(f"  {side}: errors {answer['errors']}")
    times = sorted([value for answer in found for value in answer["times"]])
    return Speed(
        rate=sum([len(answer["times"]) / answer["elapsed"] for answer in found]),
        median=statistics.median(times),
        p99=times[int(len(times) * 0.99)],
        cpu_ms=sum([answer["cpu"] for answer in found]) * 1000 / len(times),
    )


def _await_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "ready":
            return
    raise SystemExit(f"{process.args!r:.60} ended with {process.wait()}")


def _connection(url: str) -> dict[str, Any]:
    parts = conninfo_to_dict(url)
    return {
        "host": parts.get("host") or "localhost",
        "port": int(parts.get("port") or 5432),
        "user": parts.get("user") or "postgres",
        "database": parts.get("dbname") or "postgres",
        "password": parts.get("password") or "none",  # it wants one even where nobody asks
    }


@contextmanager
def packages(given: Path | None) -> Iterator[Path]:
    """A folder with the packages: the one given, or a new one."""
    if given is not None:
        yield given
        return
    folder = Path(tempfile.mkdtemp(prefix="threadmark-bench-"))
    try:
        (folder / "package.json").write_text('{"private": true}')
        # By tag: npm would choose a version years old where Node.js is older than the newest one asks for.
        names = [f"{name}@latest" for name in PACKAGES]
        subprocess.run(["npm", "install", "--no-fund", "--no-audit", *names], cwd=folder, check=True)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(url: str, given: Path | None, seconds: float, rounds: int) -> None:
    with packages(given) as modules:
        versions = []
        for name in PACKAGES:
            found = json.loads((modules / "node_modules" / name / "package.json").read_text())
            versions.append(f"{name} {found['version']}")
        print(f"beside {', '.join(versions)}; {rounds} rounds of {seconds:g} s each")
        print(f"{'':48} {'turns/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'CPU ms':>8}")
        for what in KINDS:
            for shape in SHAPES:
                _compare(url, modules, what, shape, seconds, rounds)


def _compare(url: str, modules: Path, what: str, shape: tuple[int, int], seconds: float, rounds: int) -> None:
    sides: dict[str, list[Speed]] = {side: [] for side in SCHEMAS}
    for _ in range(rounds):
        for side, speeds in sides.items():
            speeds.append(measure(side, url, modules, what, shape, seconds))
    middle = {
        side: Speed(
            **{f.name: statistics.median([getattr(s, f.name) for s in speeds]) for f in fields(Speed)}
        )
        for side, speeds in sides.items()
    }
    for side, one in middle.items():
        label = f"{what}, {shape[0]} x {shape[1]} writers: {side}"
        print(f"{label:48} {one.rate:8.0f} {one.median:8.2f} {one.p99:8.2f} {one.cpu_ms:8.2f}")
    ours, theirs = middle["threadmark"], middle["@mastra/pg"]
    print(
        f"{'':48} {ours.rate / theirs.rate:7.2f}x {ours.median / theirs.median:7.2f}x "
        f"{ours.p99 / theirs.p99:7.2f}x {ours.cpu_ms / theirs.cpu_ms:7.2f}x   load {os.getloadavg()[0]:.1f}",
        flush=True,
    )

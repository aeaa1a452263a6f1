"""Several processes index one file, and one of them is killed: nothing is lost, nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from threadmark import Memory

pytestmark = pytest.mark.anyio

WORKER = """
import asyncio, sys
from threadmark import Memory, SemanticRecall

class Slow:
    name, dimension = "slow", 4
    async def embed(self, texts, *, query=False):
        await asyncio.sleep(float(sys.argv[3]) * len(texts))
        return [[1.0, float(len(text) % 7), 0.5, 0.1] for text in texts]

async def main():
    async with Memory(sys.argv[1], semantic_recall=SemanticRecall(embedder=Slow())) as memory:
        user = memory.resource("ana")
        print("ready", flush=True)
        for i in range(int(sys.argv[4])):
            await user.thread(sys.argv[2]).save(f"note {i} of {sys.argv[2]} marmalade")
        await memory.settled()

asyncio.run(main())
"""


def start(url: str, thread: str, pause: float, count: int) -> subprocess.Popen[str]:
    args = [sys.executable, "-c", WORKER, url, thread, str(pause), str(count)]
    return subprocess.Popen(args, stdout=subprocess.PIPE, text=True, env={**os.environ})


class Same:
    """The workers' embedder without the pause."""

    name, dimension = "slow", 4

    async def embed(self, texts: list[str], *, query: bool = False) -> list[list[float]]:
        return [[1.0, float(len(text) % 7), 0.5, 0.1] for text in texts]


async def test_two_processes_index_at_once(tmp_path: Path) -> None:
    """Both write and work off one outbox; every message has exactly one set of vectors at the end."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    workers = [start(url, name, 0.0005, 40) for name in ("one", "two")]
    for worker in workers:
        assert worker.wait(60) == 0
        assert worker.stdout is not None
        worker.stdout.close()
    async with Memory(url, embedder=Same()) as memory:
        state = await memory.reindex()
        assert (state.indexed, state.messages) == (80, 80)
        (space,) = state.spaces
        assert (space.embedded, space.waiting, space.complete) == (80, 0, True)


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is a signal of POSIX")
async def test_killed_while_it_indexes(tmp_path: Path) -> None:
    """What was stored is found at once; what was claimed is embedded when the lease has run out."""
    from datetime import UTC, datetime, timedelta

    url = f"sqlite:///{tmp_path / 'a.db'}"
    worker = start(url, "one", 0.02, 400)
    assert worker.stdout is not None
    worker.stdout.readline()
    time.sleep(0.6)  # noqa: ASYNC251 - the other process works meanwhile
    worker.send_signal(signal.SIGKILL)
    worker.wait(10)
    worker.stdout.close()
    later = datetime.now(UTC) + timedelta(hours=1)
    async with Memory(url, embedder=Same(), clock=lambda: later) as memory:
        stored = (await memory.resource("ana").thread("one").messages()).total
        assert stored > 0
        found = await memory.resource("ana").recall("marmalade", mode="lexical")
        assert found.indexed == stored
        state = await memory.reindex()
        assert state.complete
        assert state.spaces[0].complete
        assert state.spaces[0].embedded == stored


async def test_an_erased_owner_leaves_no_byte_in_the_index(tmp_path: Path) -> None:
    """After `erase()` no word, vector or quote of the owner is in any of the database's files."""
    file = tmp_path / "a.db"
    async with Memory(f"sqlite:///{file}", embedder=Same(), semantic_recall=True) as memory:
        for owner, word in (("ana", "zanzibar"), ("ben", "timbuktu")):
            await memory.resource(owner).thread("t").save([f"{word} number {i}" for i in range(50)])
        await memory.settled()
        assert len((await memory.resource("ana").recall("zanzibar")).hits) == 4
        await memory.resource("ana").erase()
        assert not (await memory.resource("ana").recall("zanzibar")).hits
        assert (await memory.resource("ben").recall("timbuktu")).hits
    data = b"".join(path.read_bytes() for path in tmp_path.iterdir())  # noqa: ASYNC240 - nothing waits
    assert b"zanzibar" not in data
    assert b"timbuktu" in data

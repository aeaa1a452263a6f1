"""The example on DBOS, a real workflow engine: killed, gone on with, and every turn stored once."""

import subprocess
import sys
import time
from pathlib import Path

from threadmark import Memory

EXAMPLE = Path(__file__).parents[2] / "examples" / "dbos_refund.py"


def begin(what: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(EXAMPLE), what, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def wait_for_messages(folder: Path, count: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if (folder / "shop.db").exists():
            with Memory(f"sqlite:///{folder / 'shop.db'}") as memory:
                if memory.resource("ana").thread("orders").messages_sync().total >= count:
                    return
        time.sleep(0.1)
    raise AssertionError(f"there were never {count} messages")


def test_a_killed_workflow_goes_on_and_asks_no_question_twice(tmp_path: Path) -> None:
    first = begin("start", tmp_path)
    wait_for_messages(tmp_path, 2)
    first.kill()
    first.communicate()
    second = begin("start", tmp_path)
    decision = begin("approve", tmp_path)
    decision.communicate(timeout=120)
    assert decision.returncode == 0
    answer, _ = second.communicate(timeout=120)
    assert "My order number is 7" in answer
    with Memory(f"sqlite:///{tmp_path / 'shop.db'}") as memory:
        said = [m.text for m in memory.resource("ana").thread("orders").messages_sync() if m.role == "user"]
    assert said == [
        "My order number is 7, and it arrived broken.",
        "The manager says: approved.",
        "What is my order number?",
    ]

"""The example on DBOS, a real workflow engine: killed, gone on with, and every turn stored once."""

import datetime
import subprocess
import sys
import time
from pathlib import Path

import pytest

from threadmark import Agent, Memory
from threadmark.models import ModelRequest
from threadmark.testing import FakeClock, ScriptedModel

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


class Died(BaseException):
    """Takes the place of the end of the process."""


def test_a_call_that_was_cut_off_is_made_again(tmp_path: Path) -> None:
    """A process died in the agent's first call; the workflow's next process makes that call."""

    def dies(request: ModelRequest) -> str:
        raise Died

    long_ago = FakeClock(datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5))
    with Memory(f"sqlite:///{tmp_path / 'shop.db'}", clock=long_ago) as memory:
        agent = Agent("support", model=ScriptedModel(dies), memory=memory)
        with pytest.raises(Died):
            agent.generate_sync(
                "My order number is 7, and it arrived broken.",
                resource="ana",
                thread="orders",
                run_id="refund-7/report/1",
            )
    whole = begin("all", tmp_path)
    answer, _ = whole.communicate(timeout=120)
    assert "My order number is 7" in answer

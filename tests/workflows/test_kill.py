"""A workflow's process is killed again and again: the run ends all the same, and what runs once runs once."""

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

WORKER = Path(__file__).parent / "worker.py"
KILLS = 40


def test_a_run_survives_any_number_of_kills(tmp_path: Path) -> None:
    """Each process is killed after a random time; another goes on where the journal ends."""
    trace, dice = tmp_path / "trace", random.Random(7)
    kills = finished = 0
    outputs = []
    while kills < KILLS or finished < 5:
        run_id = f"run-{finished}"
        command = [sys.executable, str(WORKER), str(tmp_path / "w.db"), str(trace), run_id]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            out, _ = process.communicate(timeout=dice.uniform(0.1, 0.6) if kills < KILLS else 60)
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
            kills += 1
        if out.strip():
            outputs.append(out.strip().split(","))
            finished += 1
        else:
            assert process.returncode != 1, "the worker failed"
        if kills >= KILLS * 2:  # a machine so slow that every process is killed before it has begun
            break
    counts = Counter(trace.read_text().splitlines())
    for number, output in enumerate(outputs):
        run_id = f"run-{number}"
        assert output[:3] == ["A", "B", "C"]
        assert output[-1] == "LAST"
        assert counts[f"{run_id} pay"] <= 1, "what may run only once ran again"
        assert counts[f"{run_id} pay"] == 1 or "unknown" in output
        assert min(counts[f"{run_id} {name}"] for name in "abc") >= 1
    assert finished >= 5

"""The evaluation, with scripted models: what is lived through, asked, judged and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.observing.__main__ import main, prices, table
from benchmarks.observing.data import Case, read
from benchmarks.observing.run import Outcome, Prices, Setup, Spent, run
from benchmarks.observing.score import Share, grouped, macro, share

from threadmark import ModelError, Usage
from threadmark.memory.observe.settings import ObservationalMemory, ObservationSettings
from threadmark.models.base import ModelRequest
from threadmark.testing import ScriptedModel

pytestmark = pytest.mark.anyio

FILLER = "We talked about the weather and about nothing else of note for a while. "


def longmemeval(tmp_path: Path, sessions: int = 12) -> Path:
    """One case: a fact in the first session, and filler."""
    talk = [
        [
            {"role": "user", "content": f"My locker number is 4711. {FILLER}", "has_answer": True},
            {"role": "assistant", "content": "Noted."},
        ]
    ]
    talk += [
        [{"role": "user", "content": FILLER * 6}, {"role": "assistant", "content": FILLER * 6}]
        for _ in range(sessions - 1)
    ]
    rows = [
        {
            "question_id": name,
            "question": text,
            "question_type": kind,
            "answer": answer,
            "question_date": "2023/06/30 (Fri) 23:40",
            "haystack_dates": [f"2023/05/{day:02} (Sat) 02:21" for day in range(1, sessions + 1)],
            "haystack_session_ids": [f"s{n}" for n in range(sessions)],
            "haystack_sessions": talk,
        }
        for name, text, kind, answer in (
            ("q1", "What is my locker number?", "single-session-user", 4711),
            ("q2_abs", "What is my dog called?", "knowledge-update", "unknown"),
        )
    ]
    path = tmp_path / "longmemeval_s.json"
    path.write_text(json.dumps(rows))
    return path


def locomo(tmp_path: Path) -> Path:
    session = [{"speaker": "Ana", "dia_id": "D1:1", "text": "I bought a kiln."}]
    rows = [
        {
            "sample_id": "c1",
            "conversation": {"session_1": session, "session_1_date_time": "1:56 pm on 8 May, 2023"},
            "qa": [
                {"question": "What did Ana buy?", "answer": "a kiln", "evidence": ["D1:1"], "category": 4},
                {"question": "What did Ben buy?", "adversarial_answer": "a kiln", "category": 5},
            ],
        }
    ]
    path = tmp_path / "locomo10.json"
    path.write_text(json.dumps(rows))
    return path


def reader(request: ModelRequest) -> str:
    """Knows what it is shown."""
    shown = "\n".join(message.text for message in request.messages)
    question = request.messages[-1].text
    if "locker" in question and "4711" in shown:
        return "It is 4711."
    return "Ana bought a kiln." if "kiln" in shown and "Ana" in question else "I do not know."


def judge(request: ModelRequest) -> str:
    """Right if the answer has the right one in it, or says that nothing is known where nothing is."""
    text = request.messages[0].text
    given = text.rpartition("Answer to grade: ")[2]
    if "Right answer: " not in text:
        return "Yes." if "not know" in given else "no"
    wanted = text.partition("Right answer: ")[2].partition("\n")[0]
    return "yes" if wanted in given else "NO"


def observer(request: ModelRequest) -> str:
    """Notes locker numbers, and nothing else."""
    if "You condense" in request.instructions:
        return ""
    text = request.messages[0].text
    labels = [part.partition('"')[0] for part in text.split('<message n="')[1:]]
    lines = [f"NOTHING {', '.join(labels)}"] if labels else []
    if "4711" in text and labels:
        lines = [f"- (high fact) The user's locker number is 4711. [{labels[0]}]", *lines]
    return "\n".join(lines)


def setup(**fields: Any) -> Setup:
    fields.setdefault("reader", ScriptedModel(reader))
    fields.setdefault("judge", ScriptedModel(judge))
    memory = ObservationalMemory(
        model=ScriptedModel(observer),
        observation=ObservationSettings(message_tokens=600, max_tokens_per_batch=600),
        deadline=60,
    )
    return Setup(memory=memory, turns=2, **fields)


def test_reading_the_sets(tmp_path: Path) -> None:
    """Questions with answers, kinds and dates; those that cannot be answered are known as such."""
    first, second = read(longmemeval(tmp_path))
    assert [len(case.conversation.threads) for case in (first, second)] == [12, 12]
    (question,) = first.questions
    assert (question.answer, question.category, question.unanswerable) == (
        "4711",
        "single-session-user",
        False,
    )
    assert question.at is not None
    assert question.at.isoformat() == "2023-06-30T23:40:00+00:00"
    assert second.questions[0].unanswerable
    (case,) = read(locomo(tmp_path))
    assert [(item.category, item.unanswerable) for item in case.questions] == [
        ("single-hop", False),
        ("adversarial", True),
    ]
    with pytest.raises(ValueError, match="neither LongMemEval nor LoCoMo"):
        read(tmp_path)


async def test_what_was_said_first_is_known_last(tmp_path: Path) -> None:
    """With observations the first session's fact is in a short prompt; with the newest messages it is not."""
    cases = read(longmemeval(tmp_path))
    observed, spent = await run(cases, setup())
    assert [outcome.right for outcome in observed] == [True, True]
    assert spent.memory.requests > 0
    assert spent.reader.requests == spent.judge.requests == 2
    full, _ = await run(cases, setup(mode="full"))
    assert [outcome.right for outcome in full] == [True, True]
    assert observed[0].context_tokens < 0.8 * full[0].context_tokens
    window, spent = await run(cases, setup(mode="window", last_messages=4))
    assert [outcome.right for outcome in window] == [False, True]
    assert spent.memory == Usage()


async def test_a_failure_is_no_answer(tmp_path: Path) -> None:
    """A reader that fails, or a judge that says neither, is counted apart."""
    cases = read(locomo(tmp_path))
    broken, _ = await run(cases, setup(reader=ScriptedModel(lambda request: ModelError("down", status=500))))
    assert [(outcome.right, outcome.error) for outcome in broken] == [(None, "ModelError: down")] * 2
    vague, _ = await run(cases, setup(judge=ScriptedModel(lambda request: "perhaps")))
    assert [outcome.right for outcome in vague] == [None, None]
    assert "failed            2 of 2" in table(vague, Spent(), {})


def test_shares() -> None:
    """Micro counts questions, macro kinds; both have intervals."""
    assert share([]) == Share(0.0, 0.0, 1.0, 0)
    half = share([True, False] * 50)
    assert half.value == 0.5
    assert 0.40 < half.low < 0.41
    assert 0.59 < half.high < 0.60
    assert (share([True] * 10).high, share([False] * 10).low) == (1.0, 0.0)
    groups = grouped([("b", True)] * 90 + [("a", False)] * 10)
    assert list(groups) == ["a", "b"]
    assert macro(groups) == Share(0.5, 0.5, 0.5, 100)
    mixed = macro({"a": [True, False] * 20, "b": [True] * 40})
    assert mixed.low < 0.75 < mixed.high
    assert macro({}).count == 0


def test_costs() -> None:
    """What was read from the cache costs its own price."""
    usage = Usage(input_tokens=1_000_000, cache_read_tokens=400_000, output_tokens=10_000, requests=1)
    assert prices("1,0.1,10").of(usage) == pytest.approx(0.6 + 0.04 + 0.1)
    outcome = Outcome(
        id="q", category="a", question="?", answer="x", given="x", right=True, context_tokens=10
    )
    lines = table([outcome], Spent(reader=usage), {"reader": Prices(input=1, cached=0.1, output=10)})
    assert "reader            1 calls, 1,000,000 in (40.0 % cached), 10,000 out, $0.74" in lines
    assert lines[-1] == "cost              $0.74"


@pytest.mark.parametrize("text", ["1", "1,2", "a,b,c", "1,2,-3"])
def test_bad_prices(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Three numbers, none below 0."""
    with pytest.raises(SystemExit):
        main(["--set", "x", "--reader", "a:b", "--judge", "a:b", "--reader-prices", text])
    assert "prices are three numbers" in capsys.readouterr().err


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a file and the names of models to a table and a file of answers."""
    models = {"a:reader": reader, "a:judge": judge, "a:observer": observer}

    def infer(name: Any) -> Any:
        return ScriptedModel(models[name], name=name) if isinstance(name, str) else name

    monkeypatch.setattr("benchmarks.observing.__main__.infer_model", infer)
    monkeypatch.setattr("threadmark.models.infer_model", infer)
    out = tmp_path / "answers.jsonl"
    arguments = ["--set", str(longmemeval(tmp_path)), "--reader", "a:reader", "--judge", "a:judge"]
    assert main([*arguments, "--observer", "a:observer", "--limit", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "all (micro)" in printed
    assert "100.0 %" in printed
    (line,) = out.read_text().splitlines()
    assert json.loads(line)["right"] is True


def test_a_case_without_questions_is_lived_through(tmp_path: Path) -> None:
    """It gives no outcomes."""
    case = read(locomo(tmp_path))[0]
    assert Case(case.conversation, ()).questions == ()

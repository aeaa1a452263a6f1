from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.retrieval.__main__ import run
from benchmarks.retrieval.data import Conversation, load
from benchmarks.retrieval.metrics import by_category, score

from threadmark.recall.rank import Settings


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def locomo(tmp_path: Path) -> Path:
    session = [
        {"speaker": "Ana", "dia_id": "D1:1", "text": "I bought a kiln.", "blip_caption": "a photo of a kiln"},
        {"speaker": "Ben", "dia_id": "D1:2", "text": "Great!"},
    ]
    return write(
        tmp_path / "locomo.json",
        [
            {
                "sample_id": "c1",
                "conversation": {"session_1": session, "session_1_date_time": "1:56 pm on 8 May, 2023"},
                "qa": [
                    {"question": "Which kiln did Ana buy?", "evidence": ["D1:1"], "category": 4},
                    {"question": "Unanswerable?", "evidence": [], "category": 3},
                    {"question": "Malformed?", "evidence": ["D1:1; D1:02", "D:1:9"], "category": 1},
                ],
            }
        ],
    )


def longmemeval(tmp_path: Path) -> Path:
    return write(
        tmp_path / "lme.json",
        [
            {
                "question_id": "q1",
                "question": "Where did I put the kiln?",
                "question_type": "single-session-user",
                "haystack_dates": ["2023/05/20 (Sat) 02:21"],
                "haystack_session_ids": ["s1"],
                "haystack_sessions": [
                    [
                        {"role": "user", "content": "The kiln is in the shed.", "has_answer": True},
                        {"role": "assistant", "content": "Noted."},
                    ]
                ],
            }
        ],
    )


def beam(tmp_path: Path) -> Path:
    turns = [
        {"role": "user", "id": 0, "time_anchor": "March-15-2024", "content": "The kiln costs 900. ->-> 1,1"},
        {"role": "assistant", "id": 1, "content": "I see."},
    ]
    write(tmp_path / "beam" / "1" / "chat.json", [{"batch_number": 1, "turns": [turns]}])
    write(
        tmp_path / "beam" / "1" / "probing_questions" / "probing_questions.json",
        {
            "abstention": [{"question": "Who?"}],
            "knowledge_update": [
                {"question": "What does the kiln cost?", "source_chat_ids": {"a": [0], "b": [0]}}
            ],
        },
    )
    return tmp_path / "beam"


@pytest.mark.parametrize("build", [locomo, longmemeval, beam])
def test_each_form_is_read_and_ranked(build: Any, tmp_path: Path) -> None:
    """The sets' own forms give threads, times and evidence; the message about the kiln is found."""
    (conversation,) = load(build(tmp_path))
    assert len(conversation.threads) == 1
    first, second = conversation.threads[0]
    assert first.at is not None
    assert first.at == second.at
    assert "->->" not in first.text
    assert conversation.questions[0].gold == (first.id,)
    rows, cost = run([conversation], None, Settings())
    assert rows[0]["recall@4"] == 1
    assert cost["query_ms"] >= 0


def test_evidence_is_repaired_or_dropped(tmp_path: Path) -> None:
    """Malformed references are put right, unknown ones and questions without evidence left out."""
    (conversation,) = load(locomo(tmp_path))
    assert [(q.category, q.gold) for q in conversation.questions] == [
        ("single-hop", ("D1:1",)),
        ("multi-hop", ("D1:1", "D1:2")),
    ]
    assert conversation.threads[0][0].text.endswith("[shares a photo: a photo of a kiln]")


def test_unknown_forms_are_an_error(tmp_path: Path) -> None:
    """A file that is none of the sets is said to be that."""
    with pytest.raises(ValueError, match="no set"):
        load(write(tmp_path / "x.json", {"a": 1}))


def test_scores() -> None:
    """Recall counts evidence in the first places, budgets stop at the first message that does not fit."""
    tokens = {"a": 300, "b": 300, "c": 10}
    found = score(
        ["a", "b", "c"],
        ["b", "c"],
        tokens=tokens,
        thread_of={"a": 0, "b": 1, "c": 1},
        window=["a"],
        context=["b"],
    )
    assert found["recall@1"] == 0
    assert found["recall@4"] == found["all@4"] == 1
    assert found["mrr"] == 0.5
    assert found["recall@500t"] == 0
    assert found["recall@1000t"] == 1
    assert (found["window"], found["context"], found["context_tokens"]) == (0, 0.5, 300)
    table = by_category([("x", found), ("adversarial", found)])
    assert table["main"]["n"] == 1
    assert isinstance(Conversation("c", []).questions, list)

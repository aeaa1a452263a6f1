"""Strategies of values that SQL, patterns, JSON and the searches of two databases might trip over."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from hypothesis import strategies as st

from threadmark import Message, Speaker

TEXTS = [
    "the cheese of Ana is 50% off", "a_b ANA_b", "foo & bar | !baz <-> (qux):*", "it's \"quoted\" \\ \\n %s",
    "\u0130stanbul stra\xdfe STRASSE \u017f \ufb01", "日本語 テスト 🙂", "nul \x00 here", "lone \ud800 here",
    "", "  ", "e\u0301 \u00e9",
    '{"a": 1, "a": 2}', "NaN Infinity 1e400", "word " * 30, "cheese", "Ana cheese river", "river\u2028river",
]  # fmt: skip


# What is chosen more often is where more happens.
owners = st.sampled_from([*["ann"] * 4, "Ann%"])
threads = st.sampled_from(["t1", "t1", "t1", "t2", "t%"])
message_ids = st.sampled_from(["t10", "t11", "t12", "t13", "t20", "m1", "m_2"])
runs = st.sampled_from(["r1", "r2"])
texts = st.one_of(st.sampled_from(TEXTS), st.text(max_size=6))
keys = st.sampled_from(["a", "b", "a\x00", "\ud800", "a b", ""])
values = st.sampled_from(
    [
        None,
        True,
        False,
        0,
        1,
        1.0,
        -0.0,
        1.5,
        "1",
        "",
        "x\x00",
        "\udfff",
        2**53 + 1,
        2.0**53,
        2**70,
        1e308,
        [1],
        {"a": [1]},
    ]
)
metadata = st.dictionaries(keys, values, max_size=2)
filters = st.dictionaries(
    st.sampled_from(["a", "b"]),
    st.sampled_from([None, True, 0, 1, 1.0, -0.0, 1.5, "1", "", 2**53 + 1, 2.0**53, float(2**70), 1e308]),
    max_size=1,
)  # fmt: skip
NAMED = [Speaker(id="u1", name="Ana"), Speaker(id="u3", name=""), Speaker(id="İ", name="Zoë")]
speakers = st.sampled_from([None, None, Speaker(id="u2"), *NAMED])
EAST = timezone(timedelta(hours=5, minutes=45))
times = st.sampled_from(
    [
        None,
        None,
        datetime(2026, 1, 1, tzinfo=EAST),
        datetime(2025, 3, 30, 1, 30, 0, 1),
        datetime(1, 1, 2, tzinfo=EAST),
        datetime(9999, 12, 30, 23, 59, 59, 999_999),
    ]
)
rarely = st.sampled_from([False, False, False, True])
sizes = st.one_of(st.none(), st.integers(0, 3))


@st.composite
def batches(draw: st.DrawFn) -> list[Message]:
    return [
        Message(
            id=draw(message_ids),
            text=draw(texts),
            role=draw(st.sampled_from(["user", "user", "assistant", "system"])),
            speaker=draw(speakers),
            metadata=draw(metadata),
            created_at=draw(times),
        )
        for _ in range(draw(st.integers(0, 3)))
    ]


works = st.tuples(
    st.lists(st.tuples(texts, st.integers(0, 3), rarely, rarely), max_size=3),
    st.booleans(),
    st.one_of(st.none(), st.none(), st.sampled_from(TEXTS[:6])),
    st.dictionaries(st.sampled_from(["a", "b"]), values, max_size=1),
    rarely,
)

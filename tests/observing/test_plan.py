"""The plan is a pure function: what holds of it for any state and any settings."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from threadmark.memory.observe.plan import (
    Activate,
    ActivateSummaries,
    Demote,
    Moment,
    Observe,
    Raw,
    Reflect,
    Snapshot,
    Trim,
    measure,
    plan,
)
from threadmark.memory.observe.settings import (
    ObservationalMemory,
    ObservationSettings,
    ReflectionSettings,
)
from threadmark.stores.base import Observation, ObservationLog, RoleHealth

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def row(number: int, **fields: Any) -> Observation:
    values: dict[str, Any] = {
        "id": f"o{number}",
        "thread_id": "t",
        "kind": "fact",
        "priority": "medium",
        "text": f"row {number}",
        "made_by": "observer",
        "origin": "user",
        "from_seq": number,
        "to_seq": number,
        "place": number,
        "recorded_at": NOW,
        "tokens": 10,
    }
    return Observation(**{**values, **fields})


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Any state that a store can give."""
    observed = draw(st.integers(0, 30))
    visible = draw(st.integers(0, observed))
    gaps = draw(st.sets(st.integers(1, observed), max_size=5)) if observed else set()
    stubborn = draw(st.sets(st.sampled_from(sorted(gaps)))) if gaps else set()
    log = ObservationLog(
        thread_id="t",
        observed_seq=observed,
        visible_seq=visible,
        gaps=tuple(sorted(gaps)),
        stubborn=tuple(sorted(stubborn)),
        observer=RoleHealth(
            failures=draw(st.integers(0, 5)),
            retry_at=draw(st.sampled_from([None, NOW - timedelta(1), NOW + timedelta(1)])),
        ),
        running=draw(st.sampled_from([(), ("observe",), ("reflect",), ("observe", "reflect")])),
    )
    raw = [
        Raw(id=f"m{seq}", seq=seq, tokens=draw(st.integers(0, 900)), is_user=draw(st.booleans()))
        for seq in range(1, observed + draw(st.integers(0, 12)) + 1)
        if not log.covers(seq)
    ]
    ends = draw(st.sets(st.integers(visible + 1, observed))) | {observed} if observed > visible else set()
    rows = [
        row(
            number,
            tokens=draw(st.integers(1, 200)),
            priority=draw(st.sampled_from(["high", "medium", "low"])),
            kind=draw(st.sampled_from(["fact", "rule", "event"])),
            made_by=(maker := draw(st.sampled_from(["observer", "observer", "reflector"]))),
            visible=number <= visible if maker == "observer" else draw(st.booleans()),
        )
        for number in range(1, min(observed, 20) + 1)
    ]
    return Snapshot(
        log=log,
        raw=tuple(raw),
        rows=tuple(rows),
        ends=tuple(sorted(ends)),
        last_at=draw(st.sampled_from([None, NOW - timedelta(hours=1), NOW])),
        last_model=draw(st.sampled_from([None, "a:x", "b:y"])),
    )


@st.composite
def choices(draw: st.DrawFn) -> ObservationalMemory:
    return ObservationalMemory(
        observation=ObservationSettings(
            message_tokens=draw(st.sampled_from([300, 1500])),
            buffer_tokens=draw(st.sampled_from([0.2, 0.5, False])),
            buffer_activation=draw(st.sampled_from([0.3, 0.8, 1.0])),
            max_tokens_per_batch=draw(st.sampled_from([200, 1000])),
            buffer_on_idle=draw(st.booleans()),
        ),
        reflection=ReflectionSettings(observation_tokens=draw(st.sampled_from([100, 1000]))),
        activate_after_idle=draw(st.sampled_from([False, "5m"])),
        activate_on_provider_change=draw(st.booleans()),
    )


moments = st.builds(
    Moment,
    phase=st.sampled_from(["open", "step", "end", "background", "overflow"]),
    now=st.just(NOW),
    model=st.sampled_from([None, "a:x", "b:y"]),
    growing=st.integers(0, 2000),
    target=st.none(),
).map(lambda moment: replace(moment, target=200) if moment.phase == "overflow" else moment)


@settings(max_examples=600, deadline=None)
@given(snapshots(), moments, choices())
def test_what_is_planned_can_be_done(
    snapshot: Snapshot, moment: Moment, options: ObservationalMemory
) -> None:
    """Each action fits what is stored, the same state gives the same plan, and nothing is done twice."""
    actions = plan(snapshot, moment, options)
    assert actions == plan(snapshot, moment, options)
    log = snapshot.log
    raw = {item.id: item for item in snapshot.raw}
    rows = {item.id: item for item in snapshot.rows}
    for kind in (Activate, ActivateSummaries, Observe, Reflect, Demote, Trim):
        assert sum(isinstance(action, kind) for action in actions) <= 1
    for action in actions:
        if isinstance(action, Activate):
            assert action.to_seq in snapshot.ends
            assert action.to_seq > log.visible_seq
            log = replace(log, visible_seq=action.to_seq)
        elif isinstance(action, ActivateSummaries):
            assert any(item.made_by != "observer" and not item.visible for item in snapshot.rows)
        elif isinstance(action, Observe):
            seqs = [raw[id_].seq for id_ in action.ids]
            assert seqs == sorted(seqs)
            assert "observe" not in log.running
            assert log.observer.retry_at is None or log.observer.retry_at <= NOW
            if action.to_seq > log.observed_seq:
                assert action.from_seq == log.observed_seq + 1
            else:
                assert not action.from_seq <= log.visible_seq < action.to_seq
                assert set(seqs) <= set(log.gaps) - set(log.stubborn)
            size = sum(raw[id_].tokens for id_ in action.ids)
            sized = [id_ for id_ in action.ids if raw[id_].tokens]
            assert size <= options.observation.max_tokens_per_batch or len(sized) == 1
        elif isinstance(action, (Reflect, Demote)):
            chosen = [rows[id_] for id_ in action.ids]
            assert len(chosen) > 1
            assert not any(item.kind == "rule" for item in chosen)
            if isinstance(action, Demote):
                assert not any(item.priority == "high" for item in chosen)
            assert [item.place for item in chosen] == sorted(item.place for item in chosen)
        elif isinstance(action, Trim):
            assert set(action.ids) <= set(raw)
            kept = [item.seq for item in snapshot.raw if item.id not in action.ids]
            gone = [raw[id_].seq for id_ in action.ids]
            left = [seq for seq in kept if not log.covers(seq)]
            assert not left or max(gone) < min(left)


@settings(max_examples=300, deadline=None)
@given(snapshots(), choices())
def test_what_stays_raw(snapshot: Snapshot, options: ObservationalMemory) -> None:
    """11: Below the hard limit no activation leaves fewer tokens of messages raw than the floor."""
    size = measure(snapshot, options)
    for action in plan(snapshot, Moment(phase="open", now=NOW), options):
        if isinstance(action, Activate) and size.raw < options.observation.block_tokens:
            left = sum(item.tokens for item in snapshot.raw if item.seq > action.to_seq)
            assert left >= options.observation.retention_floor


@settings(max_examples=300, deadline=None)
@given(snapshots(), choices(), st.sampled_from(["open", "end", "background"]))
def test_nothing_is_due_below_the_thresholds(
    snapshot: Snapshot, options: ObservationalMemory, phase: Any
) -> None:
    """1, 42, 74: Nothing is observed or condensed below the figures that the settings name."""
    size = measure(snapshot, options)
    for action in plan(snapshot, Moment(phase=phase, now=NOW), options):
        if isinstance(action, Observe):
            interval = options.observation.buffer_interval
            due = interval > 0 and size.unobserved >= interval
            asked = options.observation.buffer_on_idle and size.unobserved > 0
            assert size.raw >= size.threshold or due or asked
        if isinstance(action, Reflect):
            assert size.view >= options.reflection.buffer_from


def test_a_batch_ends_where_an_activation_will_cut() -> None:
    """So that each activation lets go of all that the floor allows, and there are few of them."""
    options = ObservationalMemory(observation=ObservationSettings(message_tokens=1200))
    exchanges = [
        Raw(id=f"m{seq}", seq=seq, tokens=40 if seq % 2 else 26, is_user=bool(seq % 2))
        for seq in range(1, 33)
    ]
    log = ObservationLog(thread_id="t", observed_seq=24)
    state = Snapshot(log=log, raw=tuple(exchanges), ends=(8, 16, 24))
    (action,) = plan(state, Moment(phase="end", now=NOW), options)
    assert isinstance(action, Observe)
    assert action.to_seq == 26
    assert sum(item.tokens for item in exchanges[:26]) <= 1200 - 240 - 40
    far = replace(state, log=replace(log, observed_seq=0), raw=tuple(exchanges[:8]), ends=())
    (early,) = plan(far, Moment(phase="end", now=NOW), options)
    assert isinstance(early, Observe)
    assert early.to_seq == 8


def reflected(*rows: Observation, limit: int = 400) -> tuple[str, ...]:
    """Ids of the rows that are condensed next; none if none are."""
    options = ObservationalMemory(reflection=ReflectionSettings(observation_tokens=limit))
    state = Snapshot(log=ObservationLog(thread_id="t", observed_seq=99, visible_seq=99), rows=rows)
    for action in plan(state, Moment(phase="background", now=NOW), options):
        if isinstance(action, Reflect):
            return action.ids
    return ()


def test_summaries_are_left_alone_while_they_are_few() -> None:
    """New rows are condensed behind the old summaries, which the prompt goes on to begin with."""
    old = row(1, kind="summary", made_by="reflector", tokens=100)
    new = [row(number, tokens=50) for number in range(2, 7)]
    assert reflected(old, *new) == ("o2", "o3", "o4", "o5")
    assert reflected(replace(old, tokens=200), *new)[0] == "o1"


def test_what_is_added_while_summaries_wait_is_condensed_too() -> None:
    """Rows that came since join the summaries that wait; rows that have one are not condensed again."""
    rows = [row(number, tokens=50) for number in range(1, 9)]
    waiting = row(9, kind="summary", made_by="reflector", visible=False, children=("o1", "o2", "o3", "o4"))
    assert reflected(*rows[:5], waiting) == ()
    assert reflected(*rows, waiting) == ("o5", "o6", "o7", "o8")

"""What to do next with a thread's memory: one pure function of what is stored and what is about to be sent.

`plan` is asked when a turn opens, before each further step, when a turn ends, and between two pieces of
background work. It holds no state, so a restart, another process or a lost event changes nothing: whatever
is due is found due again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, TypeAlias

from ...stores.base import Observation, ObservationLog
from .settings import ObservationalMemory

Phase: TypeAlias = Literal["open", "step", "end", "background", "overflow"]
"""`open`: before a turn's first model call. `step`: before a later one. `end`: the turn is stored.
`background`: between pieces of work. `overflow`: the provider refused the prompt as too long."""

Why: TypeAlias = Literal["threshold", "idle", "provider-change", "overflow"]

SHRINK = 0.4
"""How large summaries may be in all, as a share of the rows that they stand for."""

CONDENSED = 0.8
"""The share of the log, oldest first, that one reflection condenses: the newest part stays as it is."""

SETTLED = 0.5
"""Summaries are condensed again only once they are this share of what the log may have. Until then new ones
stand behind them, and the prompt begins as before."""

ADDED = 0.5
"""What has come since summaries were made is condensed too, before they take over, from this share of what
the first of them took."""

LEAST = 0.25
"""A batch in the background ends where an activation is going to, if it is this share of the interval."""

STEP = 0.3
"""Trimming goes in steps of this share of what may stay, so that not every turn begins elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """A message that is not covered, as far as planning needs it. Sizes are in tokens."""

    id: str
    seq: int
    tokens: int
    is_user: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What is stored. `raw` is oldest first; `rows` are those of `ObservationState`; `ends` too.

    `last_at` is when the thread was last active, `last_model` which model answered then. `omitted` counts
    uncovered messages that are in no prompt, because only the newest are read at once; with `backlog` there
    are such, and `raw` are the oldest that are not observed. Either counts as over the threshold.
    """

    log: ObservationLog
    raw: tuple[Raw, ...] = ()
    rows: tuple[Observation, ...] = ()
    ends: tuple[int, ...] = ()
    omitted: int = 0
    backlog: bool = False
    last_at: datetime | None = None
    last_model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What is about to happen: the phase, the time, the agent's model.

    `growing` are the tokens of the turn itself, its input and its answer so far: they are always sent.
    `target` is how many tokens of raw messages may stay, where the phase is "overflow".
    """

    phase: Phase
    now: datetime
    model: str | None = None
    growing: int = 0
    target: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Activate:
    """Put buffered observations in view up to `to_seq`."""

    to_seq: int
    why: Why


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivateSummaries:
    """Put waiting summaries in view."""

    why: Why


@dataclass(frozen=True, slots=True, kw_only=True)
class Observe:
    """Have these messages observed. `wait`: the turn waits for it, within its deadline."""

    from_seq: int
    to_seq: int
    ids: tuple[str, ...]
    wait: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reflect:
    """Have these rows condensed."""

    ids: tuple[str, ...]
    tokens: int
    target: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Demote:
    """Let one line stand for these rows: what needs no model, and always makes progress."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trim:
    """Leave these raw messages out of the prompt, and say so. Nothing stored changes."""

    ids: tuple[str, ...]
    why: str


Action: TypeAlias = Activate | ActivateSummaries | Observe | Reflect | Demote | Trim


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Sizes of a thread's memory, in tokens: raw messages, of them not yet observed, and the log in view."""

    raw: int = 0
    unobserved: int = 0
    view: int = 0
    buffered: int = 0
    threshold: int = 0
    observation_threshold: int = 0


def measure(snapshot: Snapshot, settings: ObservationalMemory) -> Tokens:
    """How full a thread's memory is."""
    log = snapshot.log
    view = sum(row.tokens for row in snapshot.rows if row.in_view)
    return Tokens(
        raw=sum(raw.tokens for raw in snapshot.raw),
        unobserved=sum(raw.tokens for raw in snapshot.raw if _is_unobserved(raw.seq, log)),
        view=view,
        buffered=sum(row.tokens for row in snapshot.rows if not row.visible),
        threshold=settings.message_threshold(view),
        observation_threshold=settings.reflection.observation_tokens,
    )


def plan(snapshot: Snapshot, moment: Moment, settings: ObservationalMemory) -> tuple[Action, ...]:
    """What is to be done now, in this order.

    After an `Observe` or a `Reflect` is done, what is stored has changed: plan again.
    """
    actions: list[Action] = []
    phase = moment.phase
    if phase in ("open", "step", "overflow"):
        snapshot, activated = _activations(snapshot, moment, settings)
        actions += activated
    observe = _observation(snapshot, moment, settings)
    if observe is not None:
        actions.append(observe)
    actions += _reflections(snapshot, moment, settings)
    if phase in ("open", "step", "overflow") and not (observe is not None and observe.wait):
        actions += _trims(snapshot, moment, settings)
    return tuple(actions)


# -- activation --------------------------------------------------------------------------------------


def _activations(
    snapshot: Snapshot, moment: Moment, settings: ObservationalMemory
) -> tuple[Snapshot, list[Action]]:
    """What comes into view, and the snapshot as it is then."""
    actions: list[Action] = []
    observation = settings.observation
    size = measure(snapshot, settings)
    pending = size.raw + moment.growing
    why: Why | None = None
    if moment.phase == "overflow":
        why = "overflow"
    elif pending >= size.threshold or snapshot.omitted:
        why = "threshold"
    elif moment.phase == "open":
        why = _is_cold(snapshot, moment, settings, "observation")
    if why is not None and (end := _end(snapshot, moment, size, observation.retention_floor, settings)):
        actions.append(Activate(to_seq=end, why=why))
        snapshot = _activated(snapshot, end)
    if any(_is_waiting(row) for row in snapshot.rows):
        size = measure(snapshot, settings)
        condense: Why | None = None
        if moment.phase == "overflow":
            condense = "overflow"
        elif size.view >= settings.reflection.block_tokens:
            condense = "threshold"
        elif moment.phase == "open":
            condense = _is_cold(snapshot, moment, settings, "reflection")
        if condense is None and any(isinstance(action, Activate) for action in actions):
            # The prompt changes behind the log anyway: what is due in the log changes along with it.
            condense = why if size.view >= settings.reflection.observation_tokens else None
        if condense is not None:
            actions.append(ActivateSummaries(why=condense))
    return snapshot, actions


def _end(
    snapshot: Snapshot, moment: Moment, size: Tokens, floor: int, settings: ObservationalMemory
) -> int | None:
    """Up to where observations shall take over: as far as the floor of raw messages allows.

    An end that is followed by a user's message keeps exchanges whole, and is preferred. Above the hard limit
    any end will do that brings the messages below the threshold. Where messages were omitted, the end must
    lie behind them if one does, whatever the floor: what is in no prompt must at least be noted in it.
    """
    ends = [end for end in snapshot.ends if end > snapshot.log.visible_seq]
    if not ends:
        return None
    left = {end: sum(raw.tokens for raw in snapshot.raw if raw.seq > end) for end in ends}
    if snapshot.omitted and snapshot.raw:
        behind = [end for end in ends if end >= snapshot.raw[0].seq - 1]
        ends = behind or ends[-1:]
    target = moment.target
    if target is not None:
        floor = min(floor, target)
    kept = [end for end in ends if left[end] >= floor]
    whole = [end for end in kept if _begins_exchange(snapshot, end)]
    if kept:
        best = whole[-1] if whole and left[whole[-1]] + moment.growing < size.threshold else kept[-1]
        if left[best] + moment.growing < (size.threshold if target is None else target):
            return best
    hard = size.raw + moment.growing >= settings.observation.block_tokens or target is not None
    beyond = [end for end in ends if end not in kept]
    if hard and beyond:
        return beyond[0] if target is None else beyond[-1]
    if kept:
        return kept[-1]
    return beyond[0] if snapshot.omitted else None


def _begins_exchange(snapshot: Snapshot, end: int) -> bool:
    following = next((raw for raw in snapshot.raw if raw.seq > end), None)
    return following is None or following.is_user


def _activated(snapshot: Snapshot, end: int) -> Snapshot:
    log = replace(snapshot.log, visible_seq=end)
    return replace(
        snapshot,
        log=log,
        raw=tuple([raw for raw in snapshot.raw if not log.covers(raw.seq)]),
        rows=tuple(
            [
                replace(row, visible=True) if row.made_by == "observer" and row.to_seq <= end else row
                for row in snapshot.rows
            ]
        ),
        ends=tuple([other for other in snapshot.ends if other > end]),
    )


def _is_cold(
    snapshot: Snapshot,
    moment: Moment,
    settings: ObservationalMemory,
    role: Literal["observation", "reflection"],
) -> Why | None:
    """Whether the provider's prefix cache is of no use now, so that a changed prompt costs nothing."""
    idle = settings.idle_after(role, moment.model)
    last = snapshot.last_at
    if idle is not None and last is not None and (moment.now - last).total_seconds() >= idle:
        return "idle"
    changed = moment.model and snapshot.last_model and moment.model != snapshot.last_model
    return "provider-change" if changed and settings.on_provider_change(role) else None


# -- observing ---------------------------------------------------------------------------------------


def _is_unobserved(seq: int, log: ObservationLog) -> bool:
    return seq > log.observed_seq or seq in log.gaps


def _observation(snapshot: Snapshot, moment: Moment, settings: ObservationalMemory) -> Observe | None:
    """The next batch to observe, if one is due: new messages first, then gaps, oldest first."""
    log, options = snapshot.log, settings.observation
    if "observe" in log.running or _rests(log.observer.retry_at, moment.now):
        return None
    size = measure(snapshot, settings)
    pending = size.raw + (moment.growing if moment.phase != "end" else 0)
    over = pending >= size.threshold or snapshot.omitted > 0 or snapshot.backlog
    full = over or moment.phase == "overflow"
    in_background = options.buffer_tokens is not False
    if not full:
        if not in_background or moment.phase in ("open", "step"):
            return None
        least = 1 if options.buffer_on_idle and moment.phase in ("end", "background") else 0
        if size.unobserved < (least or options.buffer_interval):
            return None
    wait = moment.phase in ("open", "overflow") and (
        not in_background or pending >= options.block_tokens or moment.phase == "overflow"
    )
    if moment.phase in ("end", "background") and not in_background:
        return None  # without background work a turn's opening does it
    fresh = [raw for raw in snapshot.raw if raw.seq > log.observed_seq]
    open_gaps = set(log.gaps).difference(log.stubborn)
    gaps = [raw for raw in snapshot.raw if raw.seq in open_gaps]
    if gaps and not full and sum(raw.tokens for raw in fresh) < options.buffer_interval:
        fresh = []  # what was left out, or has changed, made it due
    limit = max(1, options.max_tokens_per_batch >> min(log.observer.failures, 6))
    if fresh and not snapshot.omitted:
        end = None if full else _coming_end(snapshot, size, settings)
        taken = _batch(fresh, limit, end)
        # A range has to begin where the last one ended, also where messages were deleted.
        return Observe(
            from_seq=log.observed_seq + 1,
            to_seq=taken[-1].seq,
            ids=tuple([raw.id for raw in taken]),
            wait=wait,
        )
    if fresh:
        return Observe(from_seq=log.observed_seq + 1, to_seq=fresh[-1].seq, ids=(), wait=wait)
    if not gaps and snapshot.omitted and open_gaps:
        first = min(open_gaps)  # not loaded: whoever observes reads it
        return Observe(from_seq=first, to_seq=first, ids=(), wait=wait)
    if not gaps:
        return None
    side = [raw for raw in gaps if (raw.seq <= log.visible_seq) == (gaps[0].seq <= log.visible_seq)]
    taken = _batch(side, limit)
    return Observe(
        from_seq=taken[0].seq, to_seq=taken[-1].seq, ids=tuple([raw.id for raw in taken]), wait=wait
    )


def _coming_end(snapshot: Snapshot, size: Tokens, settings: ObservationalMemory) -> int | None:
    """Where the next activation can cut so that hardly more than the floor stays raw, if work gets there.

    An activation costs the provider's cache the rest of the prompt, so each should let go of all it may.
    """
    asked = [raw.tokens for raw in snapshot.raw if raw.is_user]
    room = size.threshold - settings.observation.retention_floor - (asked[-1] if asked else 0)
    end, least = None, snapshot.log.observed_seq
    total = unobserved = 0
    for index, raw in enumerate(snapshot.raw):
        total += raw.tokens
        unobserved += raw.tokens if raw.seq > least else 0
        if total > room:
            return end
        following = snapshot.raw[index + 1] if index + 1 < len(snapshot.raw) else None
        if (
            following is not None
            and following.is_user
            and unobserved >= settings.observation.buffer_interval * LEAST
        ):
            end = raw.seq
    return None


def _batch(raw: Sequence[Raw], limit: int, end: int | None = None) -> Sequence[Raw]:
    """The first messages that fit in `limit`, one at least; up to `end`, or to the end of an exchange."""
    total, count = 0, 0
    for item in raw:
        total += item.tokens
        if count and total > limit:
            break
        count += 1
        if item.seq == end:
            return raw[:count]
    if count < len(raw):
        whole = count
        while whole > 1 and not raw[whole].is_user:
            whole -= 1
        if raw[whole].is_user and sum(item.tokens for item in raw[:whole]) * 2 >= limit:
            count = whole
    return raw[:count]


def _rests(retry_at: datetime | None, now: datetime) -> bool:
    return retry_at is not None and now < retry_at


# -- condensing --------------------------------------------------------------------------------------


def _is_waiting(row: Observation) -> bool:
    return row.made_by != "observer" and not row.visible


def _reflections(snapshot: Snapshot, moment: Moment, settings: ObservationalMemory) -> list[Action]:
    options = settings.reflection
    size = measure(snapshot, settings)
    waiting = [row for row in snapshot.rows if _is_waiting(row)]
    if moment.phase in ("open", "step", "overflow"):
        limit = options.block_tokens if moment.phase != "overflow" else options.observation_tokens
        if waiting or size.view < limit:
            return []
        demoted = _demotable(snapshot, size.view - options.observation_tokens // 2)
        return [Demote(ids=demoted)] if demoted else []
    in_background = settings.observation.buffer_tokens is not False
    least = options.buffer_from if in_background else options.observation_tokens
    if size.view < least or (waiting and not in_background):
        return []
    log = snapshot.log
    if "reflect" in log.running or _rests(log.reflector.retry_at, moment.now):
        return []
    # What a waiting summary stands for has been condensed; what was added since joins it, so that one change
    # of the prompt brings both.
    done = {child for row in waiting for child in row.children}
    view = [row for row in snapshot.rows if row.in_view and row.id not in done]
    settled = sum(row.tokens for row in view if row.kind == "summary")
    if settled < options.observation_tokens * SETTLED:
        view = [row for row in view if row.kind != "summary"]
    whole = sum(row.tokens for row in view)
    if waiting and whole < least * ADDED:
        return []
    old: list[Observation] = []
    total = 0
    for row in view:
        if row.kind == "rule":
            continue
        if total >= whole * CONDENSED:
            break
        old.append(row)
        total += row.tokens
    if len(old) < 2:
        return []
    return [Reflect(ids=tuple([row.id for row in old]), tokens=total, target=max(1, int(total * SHRINK)))]


def _demotable(snapshot: Snapshot, excess: int) -> tuple[str, ...]:
    """Rows to let go from the view, oldest of the lowest priority first; never rules, never what is high."""
    chosen: list[Observation] = []
    total = 0
    for priority in ("low", "medium"):
        for row in snapshot.rows:
            if total >= excess:
                break
            if row.in_view and row.priority == priority and row.kind != "rule":
                chosen.append(row)
                total += row.tokens
    chosen.sort(key=lambda row: (row.place, int(row.id[1:])))
    return tuple([row.id for row in chosen]) if len(chosen) > 1 else ()


# -- trimming ----------------------------------------------------------------------------------------


def _trims(snapshot: Snapshot, moment: Moment, settings: ObservationalMemory) -> list[Action]:
    """Bound the raw messages where observing fails: the oldest go from the prompt, in steps."""
    limit = settings.observation.block_tokens
    if moment.target is not None:
        limit = moment.target
    elif snapshot.log.observer.failures < settings.max_failures:
        return []
    total = sum(raw.tokens for raw in snapshot.raw) + moment.growing
    if total <= limit:
        return []
    step = max(1, int(limit * STEP))
    excess = -(-(total - limit) // step) * step
    dropped: list[str] = []
    for raw in snapshot.raw:
        if excess <= 0:
            break
        dropped.append(raw.id)
        excess -= raw.tokens
    why = (
        "the provider refused the prompt as too long"
        if moment.phase == "overflow"
        else f"observing failed {snapshot.log.observer.failures} times in a row"
    )
    return [Trim(ids=tuple(dropped), why=why)] if dropped else []

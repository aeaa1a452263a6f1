"""What of the log has room in the prompt, and which messages nothing that is shown covers then."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ...stores.base import Observation, ObservationQuery
from .render import row_tokens
from .work import Place


async def first_uncovered(place: Place, ids: Collection[str]) -> int:
    """Where the messages begin that are not covered once these rows, and what they hide, are not shown."""
    query = ObservationQuery(thread_id=place.thread_id, view="all", per_page=None)
    page = await place.store.list_observations(place.resource_id, query)
    lost, first = set(ids), 1 << 62
    # What stands for a row, or took its place, was noted after it.
    for row in sorted(page.observations, key=lambda row: -int(row.id[1:])):
        if row.id in lost or row.superseded_by in lost or not lost.isdisjoint(row.parents):
            lost.add(row.id)
            first = min(first, row.from_seq)
    return max(1, first)


def fit(rows: Sequence[Observation], room: int | None) -> tuple[list[Observation], tuple[str, ...]]:
    """The rows that fit in `room` tokens, in their order, and the ids of the others."""
    if room is None or sum(row.tokens or row_tokens(row) for row in rows) <= room:
        return list(rows), ()
    rank = {"rule": 0}
    by_worth = sorted(
        rows,
        key=lambda row: (rank.get(row.kind, 1), row.priority != "high", -row.place, -int(row.id[1:])),
    )
    kept: set[str] = set()
    for row in by_worth:
        size = row.tokens or row_tokens(row)
        if size <= room:
            kept.add(row.id)
            room -= size
    return [row for row in rows if row.id in kept], tuple([row.id for row in rows if row.id not in kept])

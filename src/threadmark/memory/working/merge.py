"""Pure functions that bring changes of a working memory together."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import Any

from ..._types import Json


def merge_patch(target: Json, patch: Json) -> Json:
    """`target` with a JSON merge patch applied (RFC 7396): objects merge, `null` removes, others replace."""
    if not isinstance(patch, Mapping):
        return patch
    merged: dict[str, Any] = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def diff_patch(before: Json, after: Json) -> dict[str, Json]:
    """The merge patch that turns the object `before` into `after`."""
    old = before if isinstance(before, Mapping) else {}
    new = after if isinstance(after, Mapping) else {}
    patch: dict[str, Json] = {key: None for key in old if key not in new}
    for key, value in new.items():
        if key not in old:
            patch[key] = value
        elif old[key] != value:
            both = isinstance(old[key], Mapping) and isinstance(value, Mapping)
            patch[key] = diff_patch(old[key], value) if both else value
    return patch


def merge_text(base: str, mine: str, theirs: str) -> str:
    """Bring two changed copies of `base` together, line by line, losing no line that either added.

    Where only one side changed a place, that side stands. Where both did, theirs stands first, followed by
    the lines that only mine added; a line of `base` that either side removed there is gone.
    """
    if mine in (base, theirs):
        return theirs
    if theirs == base:
        return mine
    lines, ours, others = base.splitlines(), mine.splitlines(), theirs.splitlines()
    in_ours, in_others = _matches(lines, ours), _matches(lines, others)
    out: list[str] = []
    at = at_ours = at_others = 0
    kept = [number for number in range(len(lines)) if number in in_ours and number in in_others]
    for number in [*kept, len(lines)]:
        end_ours = in_ours.get(number, len(ours))
        end_others = in_others.get(number, len(others))
        out += _merge_place(lines[at:number], ours[at_ours:end_ours], others[at_others:end_others])
        if number < len(lines):
            out.append(lines[number])
        at, at_ours, at_others = number + 1, end_ours + 1, end_others + 1
    text = "\n".join(out)
    return text + "\n" if text and (mine.endswith("\n") or theirs.endswith("\n")) else text


def _merge_place(base: list[str], ours: list[str], others: list[str]) -> list[str]:
    if ours in (base, others):
        return others
    if others == base:
        return ours
    return [*others, *(line for line in ours if line not in others and line not in base)]


def _matches(base: list[str], changed: list[str]) -> dict[int, int]:
    """Which line of `changed` each unchanged line of `base` is."""
    blocks = SequenceMatcher(None, base, changed, autojunk=False).get_matching_blocks()
    return {block.a + i: block.b + i for block in blocks for i in range(block.size)}

"""Bringing changes of a working memory together."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from threadmark.memory.working.merge import diff_patch, merge_patch, merge_text

lines = st.lists(st.sampled_from(["", "# A", "# B", "- x", "- y", "- z: 1", "- z: 2"]), max_size=8)
texts = lines.map(lambda chosen: "\n".join(chosen))
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from("abcd"), json, max_size=4)


@given(texts, texts)
def test_one_side_alone_stands(base: str, changed: str) -> None:
    """Where the other side changed nothing, the result is the change, to the byte."""
    assert merge_text(base, changed, base) == changed
    assert merge_text(base, base, changed) == changed
    assert merge_text(base, changed, changed) == changed


@given(texts, texts, texts)
def test_no_added_line_is_lost(base: str, mine: str, theirs: str) -> None:
    """Every line that either side added is in the result."""
    merged = merge_text(base, mine, theirs).splitlines()
    for side in (mine, theirs):
        for line in side.splitlines():
            assert line in merged or line in base.splitlines() or line == ""


@given(st.lists(st.sampled_from(["a", "b", "c", "d"]), unique=True), st.data())
def test_lines_added_at_different_places(base: list[str], data: st.DataObject) -> None:
    """Two additions both stand, whatever their places."""
    mine, theirs = list(base), list(base)
    mine.insert(data.draw(st.integers(0, len(base))), "mine")
    theirs.insert(data.draw(st.integers(0, len(base))), "theirs")
    merged = merge_text("\n".join(base), "\n".join(mine), "\n".join(theirs)).splitlines()
    assert sorted(merged) == sorted([*base, "mine", "theirs"])
    assert [line for line in merged if line in base] == base


def test_both_changed_one_line() -> None:
    """Both versions stand: a person or the model can settle it; nothing is silently lost."""
    base, mine, theirs = "# P\n- Likes:\n", "# P\n- Likes: tea\n", "# P\n- Likes: dogs\n"
    assert merge_text(base, mine, theirs) == "# P\n- Likes: dogs\n- Likes: tea\n"


@given(objects, objects)
def test_a_patch_of_the_difference_gives_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    """`diff_patch` is what `merge_patch` undoes, for objects without nulls (a null means removal)."""
    after = merge_patch({}, after)
    before = merge_patch({}, before)
    assert merge_patch(before, diff_patch(before, after)) == after


def test_merge_patch() -> None:
    """Objects merge, lists replace, null removes."""
    assert merge_patch({"a": {"b": 1, "c": 2}, "l": [1]}, {"a": {"b": None, "d": 3}, "l": [2]}) == {
        "a": {"c": 2, "d": 3},
        "l": [2],
    }

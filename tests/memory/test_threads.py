"""Threads through the scoped handle: creating, listing, changing, deleting."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from threadmark import ConflictError, Memory, NotFoundError, ValidationError

pytestmark = pytest.mark.anyio


async def test_a_thread_without_an_id_gets_one(memory: Memory) -> None:
    """A new thread has a generated id, no title, and equal created and updated times."""
    thread = await memory.resource("ana").threads.create()
    other = await memory.resource("ana").threads.create()

    assert thread.id != other.id
    assert thread.title == ""
    assert thread.title_source is None
    assert thread.created_at == thread.updated_at


async def test_all_fields_come_back_exactly(memory: Memory) -> None:
    """Nested objects, booleans, nulls, big numbers and any script survive."""
    metadata = {
        "nested": {"list": [1, 2.5, True, None, "x"], "empty": {}},
        "flag": False,
        "nothing": None,
        "big": 2**70,
        "text": "Grüße 東京 🎉 \x00 \ud800",
    }
    made = await memory.resource("ana").threads.create("t", title="Ünï 東京", metadata=metadata)
    read = await memory.resource("ana").threads.get("t")

    assert made == read
    assert read is not None
    assert read.metadata == metadata
    assert read.title == "Ünï 東京"
    assert read.title_source == "user"


async def test_creating_an_existing_thread_is_a_conflict_and_changes_nothing(memory: Memory) -> None:
    """Create inserts; it never resets title, metadata or times."""
    threads = memory.resource("ana").threads
    before = await threads.create("t", title="First", metadata={"a": 1})
    await memory.resource("ana").thread("t").save("hello")
    with pytest.raises(ConflictError, match="'t' exists already"):
        await threads.create("t", title="Second")

    after = await threads.get("t")
    assert after is not None
    assert (after.title, after.metadata, after.created_at) == ("First", {"a": 1}, before.created_at)
    assert after.message_count == 1


async def test_two_owners_may_use_the_same_id(memory: Memory) -> None:
    """The same thread id under another owner is another thread."""
    await memory.resource("ana").thread("t").save("Ana's")
    await memory.resource("bob").threads.create("t", title="Bob's")

    ana = await memory.resource("ana").threads.get("t")
    bob = await memory.resource("bob").threads.get("t")
    assert ana is not None
    assert bob is not None
    assert (ana.title, ana.message_count) == ("", 1)
    assert (bob.title, bob.message_count) == ("Bob's", 0)


async def test_a_foreign_thread_is_as_absent_as_one_that_never_was(memory: Memory) -> None:
    """Every operation on another owner's thread behaves as on an unknown id, down to the error text."""
    await memory.resource("ana-secret").thread("t").save([{"content": "private", "id": "m"}])

    outcomes = []
    for id_ in ("t", "unknown"):
        thread = memory.resource("bob").thread(id_)
        seen: list[Any] = [
            await thread.get(),
            (await thread.messages()).messages,
            await thread.message("m"),
            (await thread.messages(around="m", before=5, after=5)).messages,
            await thread.delete_messages(["m"]),
            await thread.delete(),
            await thread.history(),
            await thread.clones(),
            (await thread.runs()).runs,
            (await thread.erase()).removed,
        ]
        for call in (thread.update(title="x"), thread.clone(), thread.update_message("m", text="x")):
            with pytest.raises(NotFoundError) as caught:
                await call
            assert "ana" not in str(caught.value)
            seen.append(str(caught.value).replace(repr(id_), "ID"))
        outcomes.append(seen)
    assert outcomes[0] == outcomes[1]

    kept = await memory.resource("ana-secret").thread("t").messages()
    assert [message.text for message in kept] == ["private"]


async def test_deleting(memory: Memory) -> None:
    """Messages and runs go with the thread; an unknown id is no error."""
    user = memory.resource("ana")
    await user.thread("t").save(["one", "two"])

    assert await user.thread("t").delete() is True
    assert await user.thread("t").delete() is False
    assert await user.threads.get("t") is None
    assert (await user.thread("t").messages()).total == 0


class TestUpdate:
    async def test_metadata_is_merged_key_by_key_and_keys_can_go(self, memory: Memory) -> None:
        """`{b: 2}` over `{a: 1}` is both; removed keys disappear; null is a value."""
        user = memory.resource("ana")
        await user.threads.create("t", metadata={"a": 1, "c": {"x": 1}})
        thread = user.thread("t")

        assert (await thread.update(metadata={"b": 2})).metadata == {"a": 1, "b": 2, "c": {"x": 1}}
        assert (await thread.update(remove=["a", "never"])).metadata == {"b": 2, "c": {"x": 1}}
        assert (await thread.update(metadata={"b": None, "c": {}})).metadata == {"b": None, "c": {}}

    async def test_title(self, memory: Memory) -> None:
        """A title can be set and cleared; time of creation stays, version grows."""
        user = memory.resource("ana")
        made = await user.threads.create("t")
        titled = await user.thread("t").update(title="Trip")
        assert (titled.title, titled.title_source, titled.created_at) == ("Trip", "user", made.created_at)
        assert titled.version == made.version + 1
        assert titled.updated_at > made.updated_at
        assert (await user.thread("t").update(title="")).title_source is None

    async def test_compare_and_set(self, memory: Memory) -> None:
        """`if_version` refuses a change over one not seen."""
        user = memory.resource("ana")
        made = await user.threads.create("t")
        await user.thread("t").update(title="Mine", if_version=made.version)
        with pytest.raises(ConflictError, match="version 2, not 1"):
            await user.thread("t").update(title="Yours", if_version=made.version)
        assert (await user.threads.get("t")).title == "Mine"  # type: ignore[union-attr]

    async def test_unknown_thread(self, memory: Memory) -> None:
        """Updating what is not there is an error, not a creation."""
        with pytest.raises(NotFoundError, match="'t' does not exist"):
            await memory.resource("ana").thread("t").update(title="x")

    async def test_concurrent_patches_are_all_kept(self, memory: Memory) -> None:
        """Eight patches of different keys at once: eight keys."""
        user = memory.resource("ana")
        await user.threads.create("t")
        await asyncio.gather(*(user.thread("t").update(metadata={f"k{i}": i}) for i in range(8)))
        assert (await user.threads.get("t")).metadata == {f"k{i}": i for i in range(8)}  # type: ignore[union-attr]

    @pytest.mark.parametrize("metadata", [{1: 2}, {"a": float("nan")}, {"a": {1, 2}}, ["a"], {"a": b"x"}])
    async def test_what_is_not_json_is_refused(self, memory: Memory, metadata: Any) -> None:
        """Metadata that would not come back as it is never gets in."""
        with pytest.raises(ValidationError, match="metadata"):
            await memory.resource("ana").threads.create("t", metadata=metadata)
        assert await memory.resource("ana").threads.get("t") is None


class TestList:
    async def test_defaults(self, tmp_path: Path) -> None:
        """Newest created first, page 0, 100 a page."""
        start = datetime(2026, 1, 1, tzinfo=UTC)
        ticks = iter(start + timedelta(seconds=i) for i in range(1000))
        async with Memory(f"sqlite:///{tmp_path}/m.db", clock=lambda: next(ticks)) as memory:
            user = memory.resource("ana")
            for i in range(120):
                await user.threads.create(f"t{i}")
            page = await user.threads.list()
            assert [thread.id for thread in page] == [f"t{i}" for i in range(119, 19, -1)]
            assert (page.total, page.page, page.per_page, page.has_more) == (120, 0, 100, True)

            await user.thread("t3").save("hi")
            assert (await user.threads.list(order_by="updated_at", per_page=1)).threads[0].id == "t3"
            oldest = await user.threads.list(per_page=2, direction="asc")
            assert [thread.id for thread in oldest] == ["t0", "t1"]

    async def test_pages(self, memory: Memory) -> None:
        """Five threads, two a page: 2, 2, 1 and more, more, no more; past the end is empty."""
        user = memory.resource("ana")
        for i in range(5):
            await user.threads.create(f"t{i}")
        pages = [await user.threads.list(page=i, per_page=2) for i in range(4)]
        assert [(len(p), p.has_more, p.total) for p in pages] == [
            (2, True, 5),
            (2, True, 5),
            (1, False, 5),
            (0, False, 5),
        ]
        everything = await user.threads.list(per_page=None)
        assert (len(everything), everything.has_more) == (5, False)

    async def test_equal_times_still_page_each_thread_once(self, tmp_path: Path) -> None:
        """Threads of one instant have one order, in both directions."""
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        async with Memory(f"sqlite:///{tmp_path}/m.db", clock=lambda: moment) as memory:
            user = memory.resource("ana")
            ids = [(await user.threads.create()).id for _ in range(25)]
            for direction, expected in (("desc", ids[::-1]), ("asc", ids)):
                seen = []
                for page in range(9):
                    listed = await user.threads.list(page, 3, direction=direction)  # type: ignore[arg-type]
                    seen += [thread.id for thread in listed]
                assert seen == expected

    @pytest.mark.parametrize(
        "arguments",
        [
            {"page": -1},
            {"page": 1.5},
            {"page": True},
            {"per_page": -1},
            {"per_page": 2.0},
            {"page": 1, "per_page": None},
            {"order_by": "title"},
            {"order_by": "created_at; drop table threads"},
            {"direction": "DESC"},
            {"metadata": {"a.b": 1}},
            {"metadata": {"$": 1}},
            {"metadata": {"": 1}},
            {"metadata": {"a" * 129: 1}},
            {"metadata": {"a": {"b": 1}}},
            {"metadata": {"a": 2**70}},
            {"metadata": {"a": float("nan")}},
        ],
    )
    async def test_bad_arguments_are_errors(self, memory: Memory, arguments: Any) -> None:
        """Nothing falls back to a silent default."""
        with pytest.raises(ValidationError):
            await memory.resource("ana").threads.list(**arguments)

    async def test_a_page_of_none_does_not_loop_a_naive_reader(self, memory: Memory) -> None:
        """`per_page=0` is empty and says that there is no more."""
        await memory.resource("ana").threads.create()
        page = await memory.resource("ana").threads.list(per_page=0)
        assert (len(page), page.total, page.has_more) == (0, 1, False)

    async def test_metadata_filter_is_exact(self, memory: Memory) -> None:
        """1, "1", True and null are four values; all pairs must match; a missing key is not null."""
        user = memory.resource("ana")
        values: dict[str, Any] = {
            "int": 1, "str": "1", "bool": True, "null": None, "float": 1.5, "obj": {"a": 1},
        }  # fmt: skip
        for name, value in values.items():
            await user.threads.create(name, metadata={"v": value, "both": "yes"})
        await user.threads.create("missing", metadata={"both": "yes"})

        async def found(**metadata: Any) -> list[str]:
            page = await user.threads.list(metadata=metadata)
            assert page.total == len(page)
            return [thread.id for thread in page]

        assert await found(v=1) == ["int"]
        assert await found(v=1.0) == ["int"]
        assert await found(v="1") == ["str"]
        assert await found(v=True) == ["bool"]
        assert await found(v=False) == []
        assert await found(v=None) == ["null"]
        assert await found(v=1.5, both="yes") == ["float"]
        assert await found(v=1.5, both="no") == []

    @pytest.mark.parametrize("owner", ["", None, 3, "a\x00b", "x" * 513, "\ud800"])
    async def test_an_owner_that_is_none_gets_nothing(self, memory: Memory, owner: Any) -> None:
        """An empty or malformed owner is refused; it never means everybody."""
        with pytest.raises(ValidationError, match="resource id"):
            memory.resource(owner)


@pytest.mark.parametrize("id_", ["a/b", "🎉", "..", "' OR 1=1 --", "x" * 512, " ", "%", "a\nb"])
async def test_any_other_id_works(memory: Memory, id_: str) -> None:
    """Slashes, emoji, quotes and blanks are ordinary characters."""
    user = memory.resource(id_)
    await user.thread(id_).save([{"content": "x", "id": id_}])
    assert (await user.threads.get(id_)).id == id_  # type: ignore[union-attr]
    assert (await user.thread(id_).message(id_)).text == "x"  # type: ignore[union-attr]
    assert await memory.resource("other").thread(id_).get() is None


@pytest.mark.parametrize("id_", ["", None, 3, "a\x00b", "x" * 10_240, "\ud800"])
async def test_bad_ids_are_refused(memory: Memory, id_: Any) -> None:
    """Ids that no database could keep, or that are none, are an error before anything is read."""
    user = memory.resource("ana")
    with pytest.raises(ValidationError, match="thread id"):
        user.thread(id_)
    if id_ is not None:
        with pytest.raises(ValidationError, match="thread id"):
            await user.threads.create(id_)
        with pytest.raises(ValidationError, match="message id"):
            await user.thread("t").save([{"content": "x", "id": id_}])
    assert (await user.threads.list()).total == 0

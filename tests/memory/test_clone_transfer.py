"""Clones, and giving threads away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from threadmark import ConflictError, Memory, Message, NotFoundError

pytestmark = pytest.mark.anyio

START = datetime(2026, 1, 1, tzinfo=UTC)


async def filled(memory: Memory, owner: str = "ana") -> None:
    await memory.resource(owner).threads.create("a", title="Trip", metadata={"kind": "demo", "n": 1})
    await (
        memory.resource(owner)
        .thread("a")
        .save(
            [
                Message.user(str(i), id=f"m{i}", created_at=START + timedelta(hours=i), metadata={"i": i})
                for i in range(1, 7)
            ]
        )
    )


async def test_a_clone_is_a_copy_with_new_ids(memory: Memory) -> None:
    """Order, times, roles and content are the source's; ids are new and mapped; metadata is inherited."""
    await filled(memory)
    user = memory.resource("ana")
    clone = await user.thread("a").clone("b", metadata={"n": 2})
    source, copy = await user.thread("a").messages(), await user.thread("b").messages()

    assert [clone.id_map[m.id] for m in source] == [m.id for m in copy]
    assert not {m.id for m in source} & {m.id for m in copy}
    assert [(m.text, m.created_at, m.metadata, m.seq) for m in source] == [
        (m.text, m.created_at, m.metadata, m.seq) for m in copy
    ]
    assert (clone.thread.title, clone.thread.metadata) == ("Clone of Trip", {"kind": "demo", "n": 2})
    assert clone.thread.source is not None
    assert (clone.thread.source.thread_id, clone.thread.source.last_message_id) == ("a", "m6")
    assert clone.thread == await user.threads.get("b")


async def test_choosing_what_to_copy(memory: Memory) -> None:
    """By number, dates (included) or ids; none means none."""
    await filled(memory)
    thread = memory.resource("ana").thread("a")

    async def texts(**choice: object) -> str:
        clone = await thread.clone(**choice)  # type: ignore[arg-type]
        page = await memory.resource("ana").thread(clone.thread.id).messages(per_page=None)
        assert [m.seq for m in page] == list(range(1, len(page) + 1))
        return "".join(m.text for m in page)

    assert await texts(last=2) == "56"
    assert await texts(last=0) == ""
    assert await texts(since=START + timedelta(hours=2), until=START + timedelta(hours=4)) == "234"
    assert await texts(message_ids=["m5", "m1", "nope"]) == "15"
    assert await texts(message_ids=[]) == ""
    assert await texts(message_ids=["m1", "m2", "m3"], last=2) == "23"


async def test_errors_write_nothing(memory: Memory) -> None:
    """A missing source and a taken id."""
    await filled(memory)
    user = memory.resource("ana")
    with pytest.raises(NotFoundError):
        await user.thread("nope").clone("b")
    with pytest.raises(ConflictError):
        await user.thread("a").clone("a")
    assert (await user.threads.list()).total == 1


async def test_history_of_clones(memory: Memory) -> None:
    """a → b → c; without b, c stands alone; a reused id is not an ancestor; a cycle cannot form."""
    await filled(memory)
    user = memory.resource("ana")
    await user.thread("a").clone("b")
    await user.thread("b").clone("c")
    assert [t.id for t in await user.thread("c").history()] == ["a", "b", "c"]
    assert [t.id for t in await user.thread("a").clones()] == ["b"]

    await user.thread("b").delete()
    assert [t.id for t in await user.thread("c").history()] == ["c"]
    await user.thread("c").clone("b")
    assert [t.id for t in await user.thread("b").history()] == ["c", "b"]
    assert [t.id for t in await user.thread("c").history()] == ["c"]
    assert await user.thread("nope").history() == []


async def test_user_metadata_cannot_forge_a_relation(memory: Memory) -> None:
    """A `clone` key in metadata is the user's own and means nothing."""
    user = memory.resource("ana")
    await user.threads.create("x", metadata={"clone": {"sourceThreadId": "x"}})
    assert [t.id for t in await user.thread("x").history()] == ["x"]


async def test_admin_clones_to_another_owner(memory: Memory) -> None:
    """The copy is the other owner's; its ancestry does not show the source to them."""
    await filled(memory)
    await memory.resource("bob").thread("mine").save("Bob's")
    clone = await memory.admin.clone("a", to="bob", id="b")
    assert clone.thread.resource_id == "bob"
    assert [t.id for t in await memory.resource("bob").thread("b").history()] == ["b"]
    assert [t.id for t in await memory.admin.clones("a")] == ["b"]
    assert await memory.resource("ana").thread("a").clones() == []


class TestTransfer:
    async def test_everything_moves(self, memory: Memory) -> None:
        """Thread, messages and runs; created time is kept, updated time changes."""
        await filled(memory)
        before = await memory.resource("ana").threads.get("a")
        moved = await memory.admin.transfer("a", to="bob")
        assert before is not None
        assert (moved.resource_id, moved.metadata, moved.created_at) == (
            "bob",
            before.metadata,
            before.created_at,
        )
        assert moved.updated_at > before.updated_at
        assert moved == await memory.resource("bob").threads.get("a")
        assert (await memory.resource("bob").thread("a").messages()).total == 6
        assert await memory.resource("ana").threads.get("a") is None
        assert await memory.resource("ana").message("m1") is None
        assert await memory.admin.resources() == ["bob"]

    async def test_to_the_owner_changes_nothing(self, memory: Memory) -> None:
        """Same owner: same thread."""
        await filled(memory)
        before = await memory.resource("ana").threads.get("a")
        assert await memory.admin.transfer("a", to="ana") == before

    async def test_collisions_are_conflicts(self, memory: Memory) -> None:
        """The new owner's thread or message of that id is never touched."""
        await filled(memory)
        await memory.resource("bob").threads.create("a")
        with pytest.raises(ConflictError, match="2 owners"):
            await memory.admin.transfer("a", to="eve")
        with pytest.raises(ConflictError):
            await memory.admin.transfer("a", to="bob", owner="ana")
        await memory.resource("eve").thread("other").save(Message.user("Eve's", id="m3"))
        with pytest.raises(ConflictError):
            await memory.admin.transfer("a", to="eve", owner="ana")
        assert (await memory.resource("ana").thread("a").messages()).total == 6

    async def test_unknown(self, memory: Memory) -> None:
        """Nobody's thread."""
        with pytest.raises(NotFoundError):
            await memory.admin.transfer("nope", to="bob")

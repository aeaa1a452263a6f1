"""Forgetting: rows, and every byte of them in the database's files."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from threadmark import Memory, Message, Speaker, TextPart, ToolPart

pytestmark = pytest.mark.anyio


def leftovers(folder: Path, secret: str) -> set[bytes]:
    """Every word that starts with `secret` and stands anywhere in the files of `folder`."""
    pattern = re.compile(re.escape(secret).encode() + rb"\d*")
    return {word for path in folder.iterdir() for word in pattern.findall(path.read_bytes())}


async def fill(memory: Memory, owner: str, rng: random.Random, threads: int = 6) -> None:
    """Write a life of growing, changing and shrinking threads; every word in it starts with `owner`."""

    def word() -> str:
        return f"{owner}{rng.randrange(10**12):012d}"

    user = memory.resource(owner)
    for _ in range(threads):
        thread = user.thread((await user.threads.create(word(), title=word(), metadata={"k": word()})).id)
        for _ in range(rng.randrange(1, 6)):
            turn = await memory.open_turn(
                resource=owner, thread=thread.id, input=[Message.user(word())], agent=word(), run_id=word()
            )
            await turn.commit(
                Message(
                    role="assistant",
                    id=word(),
                    speaker=Speaker(id=word(), name=word()),
                    metadata={"m": word()},
                    parts=[
                        TextPart(" ".join(word() for _ in range(rng.choice([1, 30, 2000])))),
                        ToolPart(tool_call_id="c", tool_name=word(), state="result", output=word()),
                    ],
                ),
                error=word(),
            )
        await thread.update(title=word(), metadata={"k": word()})
        listed = (await thread.messages(per_page=None)).messages
        await thread.update_message(rng.choice(listed).id, text=word(), metadata={"m": word()})
        await thread.delete_messages(rng.choice(listed).id)
        await thread.clone(word(), title=word())


@pytest.mark.parametrize("seed", range(4))
async def test_an_erased_owner_leaves_no_byte(tmp_path: Path, seed: int) -> None:
    """After `erase()` none of the owner's words is in the file, its log or beside it; others' all are."""
    rng = random.Random(seed)
    async with Memory(f"sqlite:///{tmp_path / 'm.db'}") as memory:
        for round_ in range(3):
            await fill(memory, "anaerased", rng)
            await fill(memory, f"bobkept{round_}-", rng)
        assert len(leftovers(tmp_path, "anaerased")) > 1000
        before = await memory.resource("bobkept1-").export()

        receipt = await memory.resource("anaerased").erase()
        assert receipt.scrubbed
        assert receipt.removed["threads"] == 36
        assert receipt.removed["messages"] > 36
        assert receipt.removed["runs"] > 18
        assert receipt.total == sum(receipt.removed.values())
        assert leftovers(tmp_path, "anaerased") == set()
        after = await memory.resource("bobkept1-").export()
        assert {**after, "exported_at": 0} == {**before, "exported_at": 0}
        assert await memory.admin.resources() == ["bobkept0-", "bobkept1-", "bobkept2-"]
    assert leftovers(tmp_path, "anaerased") == set()


async def test_an_erased_thread_leaves_no_byte(tmp_path: Path) -> None:
    """Only that thread goes; a clone made of it lives on and does not name it."""
    async with Memory(f"sqlite:///{tmp_path / 'm.db'}") as memory:
        user = memory.resource("ana")
        await user.thread("secret-thread").save([Message.user("secret-text", id="secret-id")])
        await user.thread("other").save("kept-text")
        await user.thread("secret-thread").clone("copy", last=0, title="copy")
        receipt = await user.thread("secret-thread").erase()

        assert receipt.removed == {
            "threads": 1,
            "messages": 1,
            "runs": 0,
            "working_memory": 0,
            "observations": 0,
        }
        assert leftovers(tmp_path, "secret-") == set()
        assert [thread.id for thread in await user.threads.list()] == ["copy", "other"]
        assert (await user.threads.get("copy")).source is None  # type: ignore[union-attr]


async def test_erasing_nothing(memory: Memory) -> None:
    """An unknown owner gives an empty receipt."""
    receipt = await memory.resource("nobody").erase()
    assert (receipt.removed, receipt.total, receipt.resource_id) == ({}, 0, "nobody")


async def test_without_scrubbing_the_receipt_says_so(memory: Memory) -> None:
    """Rows are gone at once either way."""
    await memory.resource("ana").thread("t").save("x")
    receipt = await memory.resource("ana").erase(scrub=False)
    assert not receipt.scrubbed
    assert await memory.resource("ana").threads.get("t") is None


async def test_a_reader_in_another_connection_delays_scrubbing(tmp_path: Path) -> None:
    """While somebody reads the state of before, its bytes stay, and the receipt is honest about it."""
    import apsw

    path = tmp_path / "m.db"
    async with Memory(f"sqlite:///{path}?busy_timeout=0.2") as memory:
        await memory.resource("ana").thread("t").save("secret-text")
        reader = apsw.Connection(str(path))
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM messages").fetchall()
        receipt = await memory.resource("ana").erase()
        assert receipt.removed["messages"] == 1
        assert not receipt.scrubbed
        reader.execute("COMMIT")
        reader.close()
        assert (await memory.resource("ana").erase()).scrubbed
        assert leftovers(tmp_path, "secret-text") == set()

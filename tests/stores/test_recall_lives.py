"""Whatever happens to messages, in whatever order: their index is what one made from scratch would be."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import pytest
from recall_check import check_file
from sqlite_harness import integrity

from threadmark._errors import ConflictError, NotFoundError
from threadmark._types import Message, Speaker, TextPart
from threadmark.stores.base import Claim, Embedded, MessageQuery, RecallQuery
from threadmark.stores.maintenance import check_store
from threadmark.stores.sqlite import SQLiteStore
from threadmark.testing.conformance import Builders, same

pytest.importorskip("numpy")
pytestmark = pytest.mark.anyio

OWNERS = ("ann", "bob", "cem")
THREADS = ("t1", "t2", "t3", "t4")
SPACES = ("first", "second")
WORDS = [f"word{n}" for n in range(40)]
SHARES = [1 / (n + 1) for n in range(40)]


class Life:
    """A random life of one store, in a file."""

    def __init__(self, path: Path, seed: int, driver: str) -> None:
        self.path, self.driver = path, driver
        self.store = SQLiteStore(str(path), driver=driver)
        self.choose = random.Random(seed)
        self.build = Builders()
        self.claims: dict[str, list[Claim]] = {}
        self.steps: list[str] = []

    def text(self) -> str:
        return " ".join(self.choose.choices(WORDS, SHARES, k=self.choose.randint(0, 12)))

    def message(self) -> Message:
        speaker = self.choose.choice([None, Speaker(id="s1", name="Zoe"), Speaker(id="s2")])
        more: dict[str, Any] = {}
        if self.choose.random() < 0.05:
            more["id"] = f"m{self.choose.randint(1, 60)}"  # that another thread or owner may have
        return self.build.message(self.text(), speaker=speaker, **more)

    async def ids(self, owner: str, thread: str, most: int) -> list[str]:
        page = await self.store.list_messages(owner, MessageQuery(thread_id=thread))
        return self.choose.sample([m.id for m in page], min(most, len(page.messages)))

    async def step(self) -> None:
        kinds = [name for name in dir(self) if name.startswith("do_")]
        often = ["do_turn"] * 8 + ["do_embed"] * 5 + ["do_edit", "do_delete_messages"] * 2
        kind = self.choose.choice([*kinds, *often])
        self.steps.append(kind)
        owner, thread = self.choose.choice(OWNERS), self.choose.choice(THREADS)
        try:
            await getattr(self, kind)(owner, thread)
        except (ConflictError, NotFoundError):
            self.steps[-1] += " (refused)"

    async def do_turn(self, owner: str, thread: str) -> None:
        batch = [self.message() for _ in range(self.choose.choice([1, 2, 2, 2, 40]))]
        again = (await self.store.get_messages(owner, await self.ids(owner, thread, 1)))[:1]
        batch += [m.replace(text=self.text()) for m in again]
        await self.store.write_turn(owner, self.build.turn(thread, batch))

    async def do_edit(self, owner: str, thread: str) -> None:
        ids = await self.ids(owner, thread, 6)
        changes = [self.build.edit(id_, parts=(TextPart(self.text()),)) for id_ in ids[1:]]
        changes += [self.build.edit(id_, metadata={"a": 1}) for id_ in ids[:1]]
        await self.store.update_messages(owner, thread, changes, self.build.clock())

    async def do_delete_messages(self, owner: str, thread: str) -> None:
        ids = await self.ids(owner, thread, self.choose.choice([1, 2, 12]))
        await self.store.delete_messages(owner, thread, ids, self.build.clock())

    async def do_delete_thread(self, owner: str, thread: str) -> None:
        await self.store.delete_thread(owner, thread)

    async def do_clone(self, owner: str, thread: str) -> None:
        to = self.choose.choice(OWNERS)
        last = self.choose.choice([None, 3])
        request = self.build.clone(self.choose.choice(THREADS), owner=to, last=last)
        await self.store.clone_thread(owner, thread, request)

    async def do_transfer(self, owner: str, thread: str) -> None:
        await self.store.transfer_thread(owner, thread, self.choose.choice(OWNERS), self.build.clock())

    async def do_erase(self, owner: str, thread: str) -> None:
        if self.choose.random() < 0.3:
            only = self.choose.choice([None, thread])
            await self.store.erase(owner, thread_id=only, now=self.build.clock(), scrub=False)

    async def do_embed(self, owner: str, thread: str) -> None:
        """Claim; and store, fail or keep what was claimed at some time."""
        for space in (await self.store.recall_state()).spaces:
            claims = self.claims.pop(space.name, [])
            limit, now = self.choose.choice([3, 20, 300]), self.build.clock()
            claims += await self.store.claim_embeddings(space.name, limit=limit, now=now)
            fate = self.choose.choice(["store", "store", "store", "keep", "fail"])
            if fate == "keep":
                self.claims[space.name] = claims
            elif fate == "fail":
                tokens = [claim.token for claim in claims]
                await self.store.fail_embeddings(space.name, tokens, error="x", retry_at=now)
            else:
                made = [Embedded(token=c.token, vectors=self.vectors()) for c in claims]
                await self.store.store_embeddings(space.name, made)

    def vectors(self) -> list[bytes]:
        return [
            struct.pack("<2f", *self.choose.choice([(0.6, 0.8), (1.0, 0.0), (0.0, -1.0)]))
            for _ in range(self.choose.choice([1, 1, 2]))
        ]

    async def do_space(self, owner: str, thread: str) -> None:
        name = self.choose.choice(SPACES)
        if (await self.store.recall_state()).enabled:
            await self.store.add_space(name, 2, self.build.clock())
        if self.choose.random() < 0.2:
            await self.store.drop_space(name)

    async def do_switch(self, owner: str, thread: str) -> None:
        language = self.choose.choice([None, None, "german", "simple", "russian", "english"])
        await self.store.enable_recall(self.build.clock(), language=language)
        if self.choose.random() < 0.2:
            await self.store.disable_recall()

    async def do_backfill(self, owner: str, thread: str) -> None:
        await self.store.backfill_recall(limit=self.choose.choice([1, 10, 500]))

    async def do_reopen(self, owner: str, thread: str) -> None:
        await self.store.aclose()

    async def check(self, backfilled: bool) -> None:
        check_file(self.path, driver=self.driver, backfilled=backfilled)


@pytest.mark.parametrize("seed", range(12))
async def test_the_index_is_right_after_each_step(tmp_path: Path, seed: int) -> None:
    """Three owners with the same ids do everything that can be done; no row of the index is ever wrong."""
    life = Life(tmp_path / "life.db", seed, ("apsw", "sqlite3")[seed % 2])
    if seed % 3:
        await life.do_switch("ann", "t1")
    for _ in range(80):
        await life.step()
        try:
            await life.check((await life.store.recall_state()).complete)
            found = [p for p in await check_store(life.store) if "that the recall index lacks" not in p.what]
            assert not found
        except AssertionError as error:
            raise AssertionError(f"after {life.steps}: {error}") from error
    await life.store.aclose()
    assert integrity(life.path, life.driver) == "ok"


async def test_a_cache_of_codes_tells_what_the_file_holds(tmp_path: Path) -> None:
    """A store that has searched before finds the same, at every moment, as one that has just been opened."""
    life = Life(tmp_path / "life.db", 99, "apsw")
    await life.store.enable_recall(life.build.clock())
    await life.store.add_space("first", 2, life.build.clock())
    for number in range(60):
        if number % 3 == 0:
            batch = [life.message() for _ in range(90)]
            await life.store.write_turn("ann", life.build.turn("t1", batch))
            await life.do_embed("ann", "t1")
        await life.step()
        if not any(space.name == "first" for space in (await life.store.recall_state()).spaces):
            await life.store.enable_recall(life.build.clock())
            await life.store.add_space("first", 2, life.build.clock())
        query = RecallQuery(query="word1 word7", vector=struct.pack("<2f", 0.6, 0.8), space="first", limit=50)
        fresh = SQLiteStore(str(life.path))
        for owner in OWNERS:
            same(
                await fresh.search_messages(owner, query),
                await life.store.search_messages(owner, query),
                f"{owner} after {life.steps}",
            )
        await fresh.aclose()
    await life.store.aclose()

"""Whatever two owners do, in whatever order: the public handles agree with a plain model of the contract.

Both owners use the same few thread, message and run ids. After each step both owners' data are compared
with the model's, row by row, and an owner who had no part in the step must have exactly what they had before.
"""

from __future__ import annotations

import struct
from typing import cast

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule
from owners_machine import Machine, run
from recall_check import check_index

from threadmark.stores.base import Embedded
from threadmark.stores.sqlite import SQLiteStore


class StdlibMachine(Machine):
    driver = "sqlite3"


class MemoryMachine(Machine):
    in_memory = True


def vector(text: str) -> bytes:
    """A vector of four values that depends on the text's length."""
    return struct.pack("<4f", *[1.0 if n == len(text) % 4 else 0.0 for n in range(4)])


class RecallMachine(Machine):
    """With recall on, part of the time: after each step the index is what the messages call for."""

    @initialize()
    def begin(self) -> None:
        super().begin()
        self.run(self.store.enable_recall(self.clock()))
        self.run(self.store.add_space("first", 4, self.clock()))

    @rule(on=st.sampled_from([True, True, True, False]))
    def switch(self, on: bool) -> None:
        self.run(self.store.enable_recall(self.clock()) if on else self.store.disable_recall())

    @rule(name=st.sampled_from(["first", "second"]), drop=st.booleans())
    def space(self, name: str, drop: bool) -> None:
        if drop:
            self.run(self.store.drop_space(name))
        elif self.run(self.store.recall_state()).enabled:
            self.run(self.store.add_space(name, 4, self.clock()))

    @rule(limit=st.integers(1, 5))
    def backfill(self, limit: int) -> None:
        self.run(self.store.backfill_recall(limit=limit))

    @rule(limit=st.integers(1, 9), keep=st.sampled_from([True, True, False]), pieces=st.integers(1, 2))
    def embed(self, limit: int, keep: bool, pieces: int) -> None:
        """Make vectors now, or of what was claimed before, which may have changed or gone since."""
        for space in self.run(self.store.recall_state()).spaces:
            work = self.store.claim_embeddings(space.name, limit=limit, now=self.clock())
            claims = [*self.claimed.pop(space.name, []), *self.run(work)]
            if keep:
                self.claimed[space.name] = claims
                continue
            made = [
                Embedded(token=c.token, vectors=[vector(f"{c.token} {n}") for n in range(pieces)])
                for c in claims
            ]
            self.run(self.store.store_embeddings(space.name, made))

    @invariant()
    def indexed(self) -> None:
        if hasattr(self, "store"):
            backfilled = self.run(self.store.recall_state()).complete
            self.run(
                cast(SQLiteStore, self.store)._engine.read(
                    lambda db: check_index(db.execute, backfilled=backfilled)
                )
            )


class StdlibRecallMachine(RecallMachine):
    driver = "sqlite3"


@pytest.mark.parametrize(
    "machine", [Machine, StdlibMachine, MemoryMachine, RecallMachine, StdlibRecallMachine]
)
def test_owners_never_meet(machine: type[Machine]) -> None:
    """Sequences of all operations by two owners with colliding ids agree with the model, step by step."""
    run(machine, 30 if issubclass(machine, RecallMachine) else 60, 30)


@pytest.mark.nightly
@pytest.mark.parametrize(
    "machine", [Machine, StdlibMachine, MemoryMachine, RecallMachine, StdlibRecallMachine]
)
def test_owners_never_meet_all_night(machine: type[Machine]) -> None:
    """The same with many more and longer sequences."""
    run(machine, 1000, 60)

"""Finding rows that contradict one another, and repairing what can be decided from the rest.

No message and no observation is ever deleted: counts are counted again, places in a sequence follow from the
messages that are there, a thread that is gone follows from what was in it, and index entries from both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..base import Store
from ..base._checks import Check
from ._core_checks import CORE
from ._index_checks import index_checks
from ._tables import TableStore, of_store


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that is wrong: how many rows, of which `repaired` says whether they are right again."""

    what: str
    rows: int
    repaired: bool = False


async def check_store(
    store: Store, *, repair: bool = False, tell: Callable[[str], None] = lambda what: None
) -> list[Problem]:
    """What is wrong in a database; with `repair` what can be is put right, writers waiting meanwhile.

    `tell` hears what is looked for next.
    """
    tables = of_store(store)
    await store.open()
    found: list[Problem] = []
    for check in (*CORE, *index_checks(tables)):
        tell(check.what)
        rows = left = await tables.read_tables(check.count)
        if repair and check.repair is not None:
            left = await _repaired(tables, check, left)
        if rows:
            found.append(Problem(what=check.what, rows=rows, repaired=left == 0))
    return found


async def _repaired(tables: TableStore, check: Check, left: int) -> int:
    """How many are left once nothing gets better."""
    assert check.repair is not None
    while left:
        await tables.write_tables(check.repair, alone=True)
        before, left = left, await tables.read_tables(check.count)
        if left >= before:
            break
    return left

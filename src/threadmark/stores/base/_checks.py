"""What a store's own part of a check is made of; see `stores.maintenance`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Check:
    """Something that may be wrong with tables: how many rows are, and what puts some of them right.

    Both get an open transaction. `repair` is called until nothing is left or nothing gets better; `None`
    where the rest of the database cannot tell what is right.
    """

    what: str
    count: Callable[[Any], int]
    repair: Callable[[Any], object] | None = None

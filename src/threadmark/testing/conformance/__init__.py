"""The store contract, as checks that any store can be put through.

Each behaviour is one sentence of the contract in `threadmark.stores.base`. With pytest and anyio:

    from threadmark.testing.conformance import Harness, behaviours

    def make_store(folder, place):
        return MyStore(folder / place)

    @pytest.fixture
    async def harness(tmp_path):
        async with Harness(partial(make_store, tmp_path)) as harness:
            yield harness

    @pytest.mark.anyio
    @pytest.mark.parametrize("behaviour", behaviours(), ids=str)
    async def test_contract(behaviour, harness):
        await behaviour(harness)

Without pytest: `report = await check(Harness(...))`, then `report.ok`, `report.failed` and `print(report)`.

A store passes all of it. What it may leave out are the capabilities that it does not declare in
`Store.capabilities`; behaviours that need them are reported as not offered (skipped, in pytest).
"""

from importlib import import_module

from ._build import Builders
from ._dump import dump, whole
from ._expect import difference, holds, refuses, same
from ._harness import Harness
from ._registry import Behaviour, NotOffered, behaviours
from ._report import Outcome, Report, check

__all__ = [
    "Behaviour",
    "Builders",
    "Harness",
    "NotOffered",
    "Outcome",
    "Report",
    "behaviours",
    "check",
    "difference",
    "dump",
    "holds",
    "refuses",
    "same",
    "whole",
]

# Importing a topic registers its behaviours, in the order in which they are best read.
for _topic in (
    "threads",
    "values",
    "listing",
    "paging",
    "messages",
    "order",
    "turns",
    "runs",
    "working_memory",
    "ownership",
    "clone",
    "transfer",
    "erase",
    "observations",
    "observations_unsourced",
    "observations_found",
    "observing",
    "observing_failures",
    "observing_log",
    "recall",
    "recall_language",
    "vectors",
    "concurrency",
    "reopen",
):
    import_module(f"{__name__}.{_topic}")

"""`threadmark check`: what is wrong in a database, in words."""

from __future__ import annotations

import typer

from .._sync import run_sync
from ..stores.base import Store
from ..stores.maintenance import Problem, check_store
from . import _database


def run(*, db: str, repair: bool) -> None:
    """Say what is wrong, and what was repaired. Ends with exit code 1 if something stays wrong."""
    problems = run_sync(_check(_database.find_store(db), repair))
    for problem in problems:
        done = " (repaired)" if problem.repaired else ""
        typer.echo(f"{problem.rows:,} {problem.what}{done}")
    if not problems:
        typer.echo("Nothing is wrong.")
    elif not all(problem.repaired for problem in problems):
        if not repair:
            typer.echo("Run it with --repair to put right what can be.", err=True)
        raise typer.Exit(1)


async def _check(store: Store, repair: bool) -> list[Problem]:
    try:
        return await check_store(store, repair=repair)
    finally:
        await store.aclose()

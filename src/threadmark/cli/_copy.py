"""`threadmark copy`: everything of one database into another, with a bar while it runs."""

from __future__ import annotations

import sys

import typer

from .._errors import ConfigurationError
from .._sync import run_sync
from ..stores.base import Store
from ..stores.maintenance import CopyReport, copy_store
from . import _database


def run(*, source: str, target: str, replace: bool) -> None:
    """Copy, show how far it is, and say what the target holds."""
    if _database.storage_url(source) == _database.storage_url(target):
        raise ConfigurationError("source and target are the same database")
    here = _database.find_store(source)
    there = _database.find_store(target, must_exist=False)
    report = run_sync(_copy(here, there, replace))
    typer.echo(
        f"{_database.count(report.copied, 'conversation')} copied, "
        f"{_database.count(report.threads, 'conversation')} of "
        f"{_database.count(report.owners, 'user')} equal, "
        f"{_database.count(report.vectors, 'vector')}, checksum {report.checksum}"
    )
    for what in report.left:
        typer.echo(what, err=True)


async def _copy(here: Store, there: Store, replace: bool) -> CopyReport:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    report: CopyReport | None = None
    columns = (TextColumn("conversations"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("copy", total=None)
            async for step in copy_store(here, there, replace=replace):
                if isinstance(step, CopyReport):
                    report = step
                else:
                    bar.update(task, completed=step.threads, total=step.total)
    finally:
        await here.aclose()
        await there.aclose()
    assert report is not None
    return report

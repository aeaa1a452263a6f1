"""Work that has to be finished even if whoever waits for it is cancelled meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def finish(
    call: Coroutine[Any, Any, T],
) -> tuple[asyncio.Task[T], asyncio.CancelledError | None]:
    """Run `call` to its end, as a task, even if the caller is cancelled meanwhile; both are returned."""
    task = asyncio.ensure_future(call)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    return task, cancelled


async def settle(call: Coroutine[Any, Any, T]) -> T:
    """Run `call` to its end even if the caller is cancelled meanwhile; the cancellation then goes on."""
    task, cancelled = await finish(call)
    if cancelled is not None:
        raise cancelled from (None if task.cancelled() else task.exception())
    return task.result()

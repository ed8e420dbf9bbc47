"""Batches across requests: what waits while the device is busy goes through it together.

`@serve.batch` is not used because it closes a batch when its wait time is over even though the device is
still busy with the one before, so batches stay small under load, and because one bad request fails all of
its batch.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any

from serve import request_ids


@dataclass(frozen=True)
class Waiting:
    """An item that waits, its caller, and the request that it belongs to."""

    item: Any
    future: asyncio.Future[Any]
    context: Context = field(default_factory=request_ids.here)
    since: float = field(default_factory=time.perf_counter)


class Batcher:
    """Calls `run(items)` in a thread of its own, one call at a time, with all that came in meanwhile, at most
    `max_batch`.

    `run` gives one result for each item. Where it raises, each item is run alone, so that only the guilty
    request gets the error. `wait_s` holds a batch open for that long even when the device is free. Items
    whose caller was cancelled are dropped. Batchers with the same single-threaded `executor` take turns.

    `run` sees the context variables of its items' requests (`request_ids.shared`). `waited` is told how long each item
    waited, seconds.
    """

    def __init__(
        self,
        run: Callable[[list[Any]], Sequence[Any]],
        max_batch: int,
        wait_s: float = 0.0,
        waited: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._run, self._max_batch, self._wait_s, self._waited = run, max_batch, wait_s, waited
        # Always the same thread: torch keeps a team of OpenMP threads for each that calls it.
        self.executor: Executor = ThreadPoolExecutor(1)
        self._waiting: deque[Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None
        self.counts = {"batches": 0, "requests": 0, "largest": 0}

    async def __call__(self, item: Any) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(Waiting(item, future))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        try:
            while self._waiting:
                if self._wait_s and len(self._waiting) < self._max_batch:
                    await asyncio.sleep(self._wait_s)
                batch = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
                batch = [one for one in batch if not one.future.done()]
                for one in batch:
                    self._waited(time.perf_counter() - one.since)
                await self._run_batch(batch)
        finally:
            self._worker = None

    async def _run_batch(self, batch: list[Waiting]) -> None:
        if not batch:
            return
        self.counts["batches"] += 1
        self.counts["requests"] += len(batch)
        self.counts["largest"] = max(self.counts["largest"], len(batch))
        try:
            items = [one.item for one in batch]
            context = request_ids.shared([one.context for one in batch])
            loop = asyncio.get_running_loop()
            results = await loop.run_in_executor(self.executor, context.run, self._run, items)
        except Exception as error:
            if len(batch) > 1:
                for one in batch:
                    await self._run_batch([one])
            elif not batch[0].future.done():
                batch[0].future.set_exception(error)
            return
        for one, result in zip(batch, results, strict=True):
            if not one.future.done():
                one.future.set_result(result)

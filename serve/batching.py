"""Batches across requests: what waits while the device is busy goes through it together.

`@serve.batch` is not used because it closes a batch when its wait time is over even though the device is
still busy with the one before, so batches stay small under load, and because one bad request fails all of
its batch.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any


class Batcher:
    """Calls `run(items)` in a thread of its own, one call at a time, with all that came in meanwhile, at most
    `max_batch`.

    `run` gives one result for each item. Where it raises, each item is run alone, so that only the guilty
    request gets the error. `wait_s` holds a batch open for that long even when the device is free. Items
    whose caller was cancelled are dropped. Batchers with the same single-threaded `executor` take turns.
    """

    def __init__(self, run: Callable[[list[Any]], Sequence[Any]], max_batch: int, wait_s: float = 0.0) -> None:
        self._run, self._max_batch, self._wait_s = run, max_batch, wait_s
        # Always the same thread: torch keeps a team of OpenMP threads for each that calls it.
        self.executor: Executor = ThreadPoolExecutor(1)
        self._waiting: deque[tuple[Any, asyncio.Future[Any]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self.counts = {"batches": 0, "requests": 0, "largest": 0}

    async def __call__(self, item: Any) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        try:
            while self._waiting:
                if self._wait_s and len(self._waiting) < self._max_batch:
                    await asyncio.sleep(self._wait_s)
                batch = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
                await self._run_batch([(item, future) for item, future in batch if not future.done()])
        finally:
            self._worker = None

    async def _run_batch(self, batch: list[tuple[Any, asyncio.Future[Any]]]) -> None:
        if not batch:
            return
        self.counts["batches"] += 1
        self.counts["requests"] += len(batch)
        self.counts["largest"] = max(self.counts["largest"], len(batch))
        try:
            items = [item for item, _ in batch]
            results = await asyncio.get_running_loop().run_in_executor(self.executor, self._run, items)
        except Exception as error:
            if len(batch) > 1:
                for one in batch:
                    await self._run_batch([one])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)

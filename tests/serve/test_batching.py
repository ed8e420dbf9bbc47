"""Batches across requests, and reports kept in memory."""

import asyncio
import threading
from typing import Any

import pytest

from serve import request_ids
from serve.batching import Batcher
from serve.reports import ReportStore


class Recorder:
    """Doubles numbers, in batches that it remembers; holds the first one until released."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.release = threading.Event()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(list(items))
        if len(self.batches) == 1:
            assert self.release.wait(5)
        if any(item < 0 for item in items):
            raise ValueError(f"negative in {items}")
        return [2 * item for item in items]


async def start(batcher: Batcher, items: list[int]) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(batcher(item)) for item in items]
    await asyncio.sleep(0.02)
    return tasks


def test_what_waits_while_the_device_is_busy_goes_together() -> None:
    async def run() -> tuple[list[int], Recorder, dict[str, int]]:
        recorder = Recorder()
        batcher = Batcher(recorder, max_batch=3)
        tasks = await start(batcher, [1]) + await start(batcher, [2, 3, 4, 5])
        recorder.release.set()
        return list(await asyncio.gather(*tasks)), recorder, batcher.counts

    results, recorder, counts = asyncio.run(run())
    assert results == [2, 4, 6, 8, 10]
    assert recorder.batches == [[1], [2, 3, 4], [5]]
    assert counts == {"batches": 3, "requests": 5, "largest": 3}


def test_a_wait_time_fills_the_first_batch_too() -> None:
    async def run() -> list[list[int]]:
        recorder = Recorder()
        recorder.release.set()
        batcher = Batcher(recorder, max_batch=8, wait_s=0.05)
        await asyncio.gather(*(batcher(item) for item in range(3)))
        return recorder.batches

    assert asyncio.run(run()) == [[0, 1, 2]]


def test_only_the_guilty_request_fails() -> None:
    async def run() -> tuple[list[Any], Any]:
        recorder = Recorder()
        recorder.release.set()
        batcher = Batcher(recorder, max_batch=8, wait_s=0.02)
        first = await asyncio.gather(*(batcher(item) for item in (1, -2, 3)), return_exceptions=True)
        return first, await batcher(4)  # and the batcher goes on

    results, later = asyncio.run(run())
    assert (results[0], results[2], later) == (2, 6, 8)
    assert isinstance(results[1], ValueError)
    assert str(results[1]) == "negative in [-2]"


def test_cancelled_callers_are_dropped() -> None:
    async def run() -> list[list[int]]:
        recorder = Recorder()
        batcher = Batcher(recorder, max_batch=8)
        tasks = await start(batcher, [1]) + await start(batcher, [2, 3])
        tasks[1].cancel()
        recorder.release.set()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        assert await tasks[2] == 6
        return recorder.batches

    assert asyncio.run(run()) == [[1], [3]]


def test_reports_expire_and_are_bounded() -> None:
    now = [0.0]
    store = ReportStore(seconds=10, count=2, clock=lambda: now[0])
    store.put("a", {"n": 1})
    now[0] = 5
    store.put("b", {"n": 2})
    assert store.get("a") == {"n": 1}
    now[0] = 10
    assert store.get("a") is None
    assert store.get("b") == {"n": 2}
    store.put("c", {"n": 3})
    store.put("d", {"n": 4})
    assert [store.get(name) for name in "bcd"] == [None, {"n": 3}, {"n": 4}]
    store.put("c", {"n": 5})  # again: replaced, and the newest now
    store.put("e", {"n": 6})
    assert [store.get(name) for name in "cde"] == [{"n": 5}, None, {"n": 6}]


def test_what_a_batch_logs_has_the_ids_of_its_requests() -> None:
    """And what is run again alone has that of the one request."""
    seen: list[str] = []

    def run(items: list[int]) -> list[int]:
        seen.append(request_ids.current())
        if 3 in items:
            raise ValueError("three")
        return items

    async def ask(batcher: Batcher, item: int) -> int:
        request_ids.use(f"request-{item}")
        return int(await batcher(item))

    async def main() -> None:
        batcher = Batcher(run, max_batch=4, wait_s=0.01)
        await asyncio.gather(*(asyncio.create_task(ask(batcher, item)) for item in (1, 2)))
        both = (asyncio.create_task(ask(batcher, item)) for item in (3, 4))
        await asyncio.gather(*both, return_exceptions=True)

    asyncio.run(main())
    assert seen == ["request-1,request-2", "request-3,request-4", "request-3", "request-4"]

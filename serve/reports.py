"""Reports of finished requests, kept for a few minutes in memory. Its replica loads no torch: keep it so."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any


class ReportStore:
    """At most `count` reports in memory, each for `seconds`; the oldest go first."""

    def __init__(self, seconds: float, count: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._count, self._clock = seconds, count, clock
        self._held: OrderedDict[str, tuple[float, dict[str, Any]]] = OrderedDict()

    def put(self, request_id: str, report: dict[str, Any]) -> None:
        self._held.pop(request_id, None)
        self._held[request_id] = (self._clock() + self._seconds, report)
        self._drop()

    def get(self, request_id: str) -> dict[str, Any] | None:
        self._drop()
        return self._held[request_id][1] if request_id in self._held else None

    def _drop(self) -> None:
        now = self._clock()
        while self._held and (len(self._held) > self._count or next(iter(self._held.values()))[0] <= now):
            self._held.popitem(last=False)


class Reports:
    """The reports of the last minutes, in one replica, so that every ingress replica finds them."""

    def __init__(self, seconds: float, count: int) -> None:
        self._store = ReportStore(seconds, count)

    async def put(self, request_id: str, report: dict[str, Any]) -> None:
        self._store.put(request_id, report)

    async def get(self, request_id: str) -> dict[str, Any] | None:
        return self._store.get(request_id)

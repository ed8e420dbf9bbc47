"""How much is let in at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rayface import metrics
from serve.problems import Overloaded

Cover = Callable[[int], None]  # makes sure that a request has so many places


class Gate:
    """Refuses photos beyond `limit` at a time, so that the wait and the memory stay bounded."""

    def __init__(self, limit: int, retry_after: int) -> None:
        self._limit, self._retry_after, self._inside = limit, retry_after, 0

    @contextmanager
    def request(self) -> Iterator[Cover]:
        """One place while it lasts, and as many as `cover(count)` was asked for. Raises Overloaded."""
        held = 0

        def cover(count: int) -> None:
            nonlocal held
            more = max(count - held, 0)
            if self._inside + more > self._limit:
                metrics.REFUSED.record(1, reason="in_flight")
                raise Overloaded(self._retry_after)
            self._inside += more
            held += more

        cover(1)
        try:
            yield cover
        finally:
            self._inside -= held

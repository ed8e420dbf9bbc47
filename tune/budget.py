"""A search's time: no trial starts after it, and those that run finish and count."""

import time
from typing import Any

started = time.monotonic()


def begin_budget() -> None:
    """Time counts from now; a search that is resumed has all of it again."""
    global started
    started = time.monotonic()


def within_minutes(searcher: type, minutes: float, **options: Any) -> Any:
    """A search algorithm of Ray Tune that suggests nothing more after so many minutes; 0: no limit.

    (Ray Tune's own `time_budget_s` stops the trials that run, and what they have done is lost.)
    """
    from ray.tune.search import Searcher

    class WithinMinutes(searcher):
        def suggest(self, trial_id: str) -> Any:
            from tune import budget  # this process's: Ray Tune keeps the class, with what it refers to, in its files

            if minutes and time.monotonic() - budget.started > 60 * minutes:
                return Searcher.FINISHED
            return super().suggest(trial_id)

    return WithinMinutes(**options)

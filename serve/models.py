"""Which models a deployment serves: one, or versions side by side, and how they are changed while it serves."""

import asyncio
import contextlib
import logging
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rayface.errors import RayfaceError
from rayface.guard import STAGE as GUARD
from rayface.guard import choose_guard
from rayface.work import Photo, Work
from serve.settings import Settings

logger = logging.getLogger("ray.serve")


def parse_shares(text: str) -> dict[str, float]:
    """ "enhancement@3" -> {"enhancement@3": 1.0}; "enhancement@3=0.9, enhancement@4=0.1" -> their shares of the photos.

    Shares are scaled to a sum of 1. Raises RayfaceError for what is neither.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(parts) == 1 and not re.fullmatch(r".+=[\d.]+", parts[0]):
        return {parts[0]: 1.0}  # also a folder, whatever is in its name
    shares: dict[str, float] = {}
    for part in parts:
        ref, _, share = part.rpartition("=")
        with contextlib.suppress(ValueError):
            shares[ref.strip()] = float(share)
    total = sum(shares.values())
    good = all(ref and 0 < share < float("inf") for ref, share in shares.items())
    if not parts or not good or len(shares) < len(parts):
        raise RayfaceError(
            f"model {text!r}: give name@version, or several with their shares of the photos, for example "
            "enhancement@3=0.9, enhancement@4=0.1."
        )
    return {ref: share / total for ref, share in shares.items()}


def join_shares(shares: Mapping[str, float]) -> str:
    """The reverse of `parse_shares`."""
    return next(iter(shares)) if len(shares) == 1 else ", ".join(f"{ref}={share:g}" for ref, share in shares.items())


def pinned(settings: Settings, use: str, ref: str) -> str:
    """`name@version` of a model for `use`, see `versioned`.

    Raises RayfaceError: no such model, one that offers another step, terms or a licence that are not allowed.
    """
    from rayface.pipeline import check_model
    from rayface.store import open_store

    store = open_store(settings.store, settings.commercial_only)
    if use == GUARD:
        choose_guard(store, {GUARD: ref}, settings.identity_guard, settings.similarity_threshold)
    info = store.usable(ref) if use == GUARD else check_model(store, use, ref)
    licence = info.get("licence", "unstated")
    if settings.allowed_licences and licence not in settings.allowed_licences:
        allowed = ", ".join(settings.allowed_licences)
        raise RayfaceError(
            f"{info['name']}@{info['version']} has licence {licence!r}; settings.allowed_licences allows "
            f"{allowed}. Train a model on data of your own, or allow it."
        )
    return versioned(ref, info)


def join_pinned(settings: Settings, use: str, shares: Mapping[str, float]) -> str:
    """`join_shares` of `pinned` references; a model that is named in two ways gets both shares."""
    total: dict[str, float] = {}
    for ref, share in shares.items():
        name = pinned(settings, use, ref)
        total[name] = total.get(name, 0.0) + share
    return join_shares(total)


def versioned(ref: str, info: Mapping[str, Any]) -> str:
    """`name@version` of a checked reference; a folder stays a folder, as its name@version need not be in this store."""
    return ref if "/" in ref and "@" not in ref else f"{info['name']}@{info['version']}"


def photo_key(photo: Photo) -> int:
    """A number below 2 ** 32 that depends on the picture only: the same photo always meets the same version."""
    return zlib.crc32(np.ascontiguousarray(photo.pixels[:, ::8, ::8]).data)


def work_key(work: Work) -> int:
    """As `photo_key`, of a work's faces before any step."""
    return zlib.crc32(np.ascontiguousarray(work.before).data)


class Models:
    """The loaded models of one replica. `load(ref)` runs in a thread.

    `text`: what is served, see `parse_shares`; `refused`: a later wish that could not be met, and why.
    """

    def __init__(self, load: Callable[[str], Any]) -> None:
        self._load = load
        self._current: list[tuple[float, Any]] = []  # upper end of its part of [0, 1], model
        self._held: dict[str, Any] = {}
        self.text = self.refused = ""

    async def change(self, text: str) -> None:
        """Serve `text` from the next batch on; the old models serve until the new ones are loaded.

        A replica that serves already keeps what it has where that fails: a wrong name must not end the service.
        """
        try:
            shares = parse_shares(text)
            held = {
                ref: self._held[ref] if ref in self._held else await asyncio.to_thread(self._load, ref)
                for ref in shares
            }
        except RayfaceError as error:
            if not self._held:
                raise
            self.refused = f"{text}: {error}"
            logger.error("still serving %s, as %s", self.text, self.refused)
            return
        ends = np.cumsum(list(shares.values())).tolist()
        self._current = list(zip(ends, held.values(), strict=True))
        self._held, self.text, self.refused = held, join_shares(shares), ""

    def run(self, items: Sequence[Any], key: Callable[[Any], int], call: Callable[[Any, list[Any]], Any]) -> list[Any]:
        """`call(model, its items)` for every model that an item falls to; the results in the items' order."""
        current = self._current  # whatever a change does meanwhile
        if len(current) == 1:
            return list(call(current[0][1], list(items)))
        places = [key(item) / 2**32 for item in items]
        chosen = [next((i for i, (end, _) in enumerate(current) if p < end), len(current) - 1) for p in places]
        results: list[Any] = [None] * len(items)
        for number in sorted(set(chosen)):
            own = [index for index, which in enumerate(chosen) if which == number]
            for index, result in zip(own, call(current[number][1], [items[i] for i in own]), strict=True):
                results[index] = result
        return results

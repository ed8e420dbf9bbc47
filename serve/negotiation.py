"""What a request wants back: media types, request id. No Ray in here."""

import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from rayface.errors import RayfaceError

MEDIA = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}  # the first one is the default
MIXED = "multipart/mixed"


@dataclass(frozen=True)
class Wanted:
    """The answer's image format, and whether the report comes with it."""

    format: str
    mixed: bool

    @property
    def media_type(self) -> str:
        return MEDIA[self.format]


def wanted(accept: str, format: str | None = None) -> Wanted:
    """What an Accept header (RFC 9110, 12.5.1) asks for; `format` (of the query) overrides the image type.

    JPEG unless something else is preferred; multipart/mixed only where it is named. Raises RayfaceError
    (406) where nothing that is offered is accepted.
    """
    ranges = _ranges(accept) or [("*/*", 1.0)]
    scores = {name: _quality(ranges, media) for name, media in MEDIA.items()}
    best = max(scores, key=lambda name: scores[name])  # the first of equals
    mixed = max((q for media, q in ranges if media in (MIXED, "multipart/*")), default=0.0)
    if mixed > 0 and mixed >= scores[best]:
        return Wanted(format or best, True)
    if scores[best] > 0 or format:
        return Wanted(format or best, False)
    offered = ", ".join([*MEDIA.values(), MIXED])
    raise RayfaceError(f"Accept is {accept!r}; offered are {offered}.", status=406, kind="not-acceptable")


def _ranges(accept: str) -> list[tuple[str, float]]:
    ranges = []
    for part in accept.split(","):
        media, *parameters = [item.strip().lower() for item in part.split(";")]
        if not media:
            continue
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = min(max(float(parameter[2:]), 0.0), 1.0)
                except ValueError:
                    quality = 0.0
        ranges.append((media, quality))
    return ranges


def _quality(ranges: list[tuple[str, float]], media: str) -> float:
    """The q of the most specific range that covers `media`; 0 where none does."""
    for pattern in (media, media.split("/")[0] + "/*", "*/*"):
        found = [quality for name, quality in ranges if name == pattern]
        if found:
            return max(found)
    return 0.0


def wants_job(prefer: Iterable[str]) -> bool:
    """Whether the Prefer headers (RFC 7240) name respond-async."""
    preferences = [item.split(";")[0].strip().lower() for header in prefer for item in header.split(",")]
    return "respond-async" in preferences


def request_id(given: str | None) -> str:
    """The client's own id where it is a harmless token of at most 128 characters, else a new one."""
    return given if given and re.fullmatch(r"[\w.\-]{1,128}", given, re.ASCII) else str(uuid.uuid4())

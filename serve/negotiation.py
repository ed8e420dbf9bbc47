"""What a request carries and what it wants back: body, media types, request id. No Ray in here."""

import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayface.errors import RayfaceError
from rayface.imaging.codec import Limits

if TYPE_CHECKING:
    from fastapi import Request

MEDIA = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}  # the first one is the default
MIXED = "multipart/mixed"
BODY_TYPES = ("image/", "application/octet-stream")
MULTIPART_OVERHEAD = 64 * 1024  # bytes of boundaries, headers and small fields allowed besides the image


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


def request_id(given: str | None) -> str:
    """The client's own id where it is a harmless token of at most 128 characters, else a new one."""
    return given if given and re.fullmatch(r"[\w.\-]{1,128}", given, re.ASCII) else str(uuid.uuid4())


async def image_bytes(request: "Request", limits: Limits) -> bytes:
    """The image of a request: its body, or the field `image` of a form. Held in memory only.

    Raises RayfaceError: 413 as soon as more than `limits.max_bytes` are announced or have come, 415 for
    another type of body, 400 for a broken form or an empty image.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    form = kind == "multipart/form-data"
    if kind and not form and not kind.startswith(BODY_TYPES):
        raise RayfaceError(
            f"The body is {kind}; send the bytes of an image, or multipart/form-data with a field image.",
            status=415,
            kind="unsupported-media-type",
        )
    body = await _read(request, limits.max_bytes + (MULTIPART_OVERHEAD if form else 0), limits.max_bytes)
    data = await _form_image(request, body) if form else body
    if len(data) > limits.max_bytes:
        raise _too_large(limits.max_bytes)
    if not data:
        raise RayfaceError("The image is empty (0 bytes); send the bytes of an image.", kind="empty-image")
    return data


async def _read(request: "Request", most: int, stated: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > most:
        raise _too_large(stated)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise _too_large(stated)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(most: int) -> RayfaceError:
    return RayfaceError(
        f"The image is larger than {most} bytes; send a smaller one.", status=413, kind="image-too-large"
    )


async def _form_image(request: "Request", body: bytes) -> bytes:
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    class InMemoryParser(MultiPartParser):
        spool_max_size = len(body) + 1  # a photo must never reach the disk

    async def stream() -> AsyncIterator[bytes]:
        yield body

    try:
        parser: Any = InMemoryParser(request.headers, stream(), max_files=1, max_fields=8)  # type: ignore[arg-type]
        form = await parser.parse()
    except MultiPartException as error:
        raise RayfaceError(f"The form cannot be read: {error.message}", kind="bad-form") from error
    field = form.get("image")
    if field is None:
        names = ", ".join(sorted(form.keys())) or "none"
        raise RayfaceError(
            f"The form has no field named image (it has: {names}); send the photo as image.", kind="bad-form"
        )
    if not isinstance(field, UploadFile):
        raise RayfaceError("The form's image is text; send it as a file (with a filename).", kind="bad-form")
    return await field.read()


def multipart_mixed(parts: list[tuple[str, bytes]]) -> tuple[bytes, str]:
    """(body, content type) of parts given as (media type, bytes)."""
    boundary = uuid.uuid4().hex
    lines = []
    for media_type, data in parts:
        head = f"--{boundary}\r\nContent-Type: {media_type}\r\nContent-Length: {len(data)}\r\n\r\n"
        lines += [head.encode(), data, b"\r\n"]
    return b"".join([*lines, f"--{boundary}--\r\n".encode()]), f'{MIXED}; boundary="{boundary}"'

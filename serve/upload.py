"""The photos of a request: its body, or the fields of a form. Held in memory only."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from rayface.errors import RayfaceError
from rayface.imaging.codec import Limits
from serve.gate import Cover
from serve.settings import Settings

BODY_TYPES = ("image/", "application/octet-stream")
FORM = "multipart/form-data"
MULTIPART_OVERHEAD = 64 * 1024  # bytes of boundaries, headers and small fields allowed besides the photos


@dataclass(frozen=True)
class Received:
    """The photos of a request, one or several; with a form also the donor's, and what it says of consent."""

    photos: list[bytes]
    donor: bytes = b""
    consent: str = ""


async def receive(request: Request, settings: Settings, cover: Cover) -> Received:
    """What a request brings; a client that takes too long to send them must not keep others out.

    `cover` is asked for a place for each photo, and for each `limits.max_bytes` that come: what is being received takes
    memory too. Raises RayfaceError: 408 for a slow client, and see `read_photos`.
    """
    most = min(settings.max_photos, settings.max_in_flight)  # more could never be let in
    try:
        async with asyncio.timeout(settings.timeout_s):
            received = await read_photos(request, settings.limits, most, cover)
    except TimeoutError:
        raise RayfaceError(
            f"The image did not arrive within {settings.timeout_s:g} s; send it faster or smaller.",
            status=408,
            kind="slow-upload",
        ) from None
    cover(len(received.photos) + bool(received.donor))
    return received


async def read_photos(request: Request, limits: Limits, max_photos: int, cover: Cover = lambda count: None) -> Received:
    """The photos of a request, at least one; a single one and the donor's have been through `check_photo`.

    Raises RayfaceError: 413 as soon as more is announced or has come than is allowed, 415 for another type of body,
    400 for a broken form or an empty image.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == FORM:
        received = await _of_form(request, limits, max_photos, cover)
    elif not kind or kind.startswith(BODY_TYPES):
        too_large = _too_large("image", limits.max_bytes)
        received = Received([b"".join([chunk async for chunk in _body(request, limits.max_bytes, too_large)])])
    else:
        raise RayfaceError(
            f"The body is {kind}; send the bytes of an image, or {FORM} with a field image.",
            status=415,
            kind="unsupported-media-type",
        )
    if len(received.photos) == 1:
        check_photo(received.photos[0], limits)
    if received.donor:
        check_photo(received.donor, limits, "donor's photo")
    return received


def check_photo(data: bytes, limits: Limits, what: str = "image") -> None:
    """Raises RayfaceError for a photo of no bytes (400) or of more than `limits.max_bytes` (413)."""
    if not data:
        raise RayfaceError(f"The {what} is empty (0 bytes); send the bytes of an image.", kind="empty-image")
    if len(data) > limits.max_bytes:
        raise _too_large(what, limits.max_bytes)


def _too_large(what: str, most: int) -> RayfaceError:
    return RayfaceError(
        f"The {what} is larger than {most} bytes; send a smaller one.", status=413, kind="image-too-large"
    )


async def _body(
    request: Request, most: int, too_large: RayfaceError, cover_bytes: Cover = lambda size: None
) -> AsyncGenerator[bytes, None]:
    """The body in chunks; raises `too_large` when it is, or says it is, larger than `most` bytes."""

    def check(size: int) -> None:
        if size > most:
            raise too_large
        cover_bytes(size)

    announced = request.headers.get("content-length", "")
    if announced.isdigit():
        check(int(announced))
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        check(size)
        yield chunk


async def _of_form(request: Request, limits: Limits, max_photos: int, cover: Cover) -> Received:
    most = max_photos * limits.max_bytes + MULTIPART_OVERHEAD  # a donor's photo is one of them
    body = _body(request, most, _too_large("form", most), lambda size: cover(min(size // limits.max_bytes, max_photos)))
    try:
        form = await InMemoryForm(request.headers, body, limits.max_bytes, max_photos).parse()
    except MultiPartException as error:
        raise RayfaceError(f"The form cannot be read: {error.message}", kind="bad-form") from error
    photos = [await field.read() for field in form.getlist("image") if isinstance(field, UploadFile)]
    if not photos:
        names = ", ".join(sorted(form.keys())) or "none"
        raise RayfaceError(
            f"The form has no field named image (it has: {names}); send the photo as image.", kind="bad-form"
        )
    donors = [await field.read() for field in form.getlist("donor") if isinstance(field, UploadFile)]
    if len(donors) > 1:
        raise RayfaceError(f"The form has {len(donors)} fields named donor; send one.", kind="bad-form")
    consent = form.get("consent")
    return Received(photos, donors[0] if donors else b"", consent if isinstance(consent, str) else "")


class InMemoryForm(MultiPartParser):
    """A form whose files never reach the disk, as a photo must not.

    One byte more than `max_bytes` is kept of a file that is too large: enough for `check_photo` to refuse it.
    """

    def __init__(self, headers: Headers, stream: AsyncGenerator[bytes, None], max_bytes: int, max_files: int) -> None:
        super().__init__(headers, stream, max_files=max_files, max_fields=8)
        self._kept = max_bytes + 1
        self.spool_max_size = self._kept + 1
        self._room = 0

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self._room = self._kept

    def on_headers_finished(self) -> None:
        part = self._current_part
        disposition, options = parse_options_header(part.content_disposition)
        if (name := options.get(b"name")) in (b"image", b"donor") and b"filename" not in options:
            # Only what has a filename is a file to the parser, and no text: the names of photos may be left out.
            part.content_disposition = disposition + b'; name="%s"; filename="%s"' % (name, name)
        super().on_headers_finished()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_part.file is not None:
            end = min(end, start + self._room)
            self._room -= end - start
        super().on_part_data(data, start, end)

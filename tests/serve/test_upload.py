"""The photos of a request, without Ray."""

import asyncio
import itertools
from collections.abc import Iterable
from typing import Any

import pytest
from starlette.requests import Request

from rayface.errors import RayfaceError
from rayface.imaging.codec import Limits
from serve.gate import Cover, Gate
from serve.problems import Overloaded
from serve.upload import MULTIPART_OVERHEAD, check_photo, read_photos


def no_places(count: int) -> None:
    """There is always room."""


def read(
    chunks: Iterable[bytes],
    headers: dict[str, str],
    limits: Limits = Limits(max_bytes=100),
    max_photos: int = 3,
    cover: Cover = no_places,
) -> list[bytes]:
    """The photos of a request whose body comes in these chunks."""
    messages = ({"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks)
    taken = itertools.chain(messages, [{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Any:
        return next(taken)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    request = Request({"type": "http", "method": "POST", "headers": raw}, receive)
    return asyncio.run(read_photos(request, limits, max_photos, cover)).photos


def test_photo_of_a_plain_body() -> None:
    assert read([b"ab", b"cd"], {"content-type": "image/png"}) == [b"abcd"]
    assert read([b"ab"], {}) == [b"ab"]


def test_an_announced_large_body_is_refused_before_it_is_read() -> None:
    async def receive() -> Any:
        raise AssertionError("the body was read")

    request = Request({"type": "http", "method": "POST", "headers": [(b"content-length", b"101")]}, receive)
    with pytest.raises(RayfaceError, match="larger than 100 bytes") as caught:
        asyncio.run(read_photos(request, Limits(max_bytes=100), 1, no_places))
    assert caught.value.status == 413


def test_reading_stops_at_the_limit() -> None:
    taken = []

    def chunks() -> Iterable[bytes]:
        for index in range(100):
            taken.append(index)
            yield b"x" * 30

    async def run() -> None:
        source = iter(chunks())

        async def receive() -> Any:
            return {"type": "http.request", "body": next(source), "more_body": True}

        request = Request({"type": "http", "method": "POST", "headers": []}, receive)
        await read_photos(request, Limits(100), 1, no_places)

    with pytest.raises(RayfaceError, match="larger than 100 bytes"):
        asyncio.run(run())
    assert len(taken) == 4  # 120 bytes


def form(*files: tuple[str, bytes], filename: str | None = "photo.png") -> tuple[bytes, dict[str, str]]:
    body = b""
    for name, data in files:
        disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
        body += f"--B\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + data + b"\r\n"
    return body + b"--B--\r\n", {"content-type": "multipart/form-data; boundary=B"}


def test_photo_of_a_form() -> None:
    data = bytes(range(90))
    body, headers = form(("image", data))
    assert read([body[:40], body[40:]], headers) == [data]


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (*form(("file", b"x")), 400, "no field named image.*file"),
        (*form(("image", b"")), 400, "empty"),
        (*form(("image", b"x" * 101)), 413, "larger than 100 bytes"),
        (b"nonsense", {"content-type": "multipart/form-data; boundary=B"}, 400, "form"),
        (b"nonsense", {"content-type": "multipart/form-data"}, 400, "boundary"),
        (b"{}", {"content-type": "application/json"}, 415, "application/json"),
        (b"", {"content-type": "image/png"}, 400, "empty"),
    ],
)
def test_refusals(body: bytes, headers: dict[str, str], status: int, message: str) -> None:
    with pytest.raises(RayfaceError, match=message) as caught:
        read([body], headers)
    assert caught.value.status == status


def test_a_form_of_several_megabytes_stays_off_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a temporary file was made")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    data = bytes(3_000_000)
    body, headers = form(("image", data))
    assert read([body], headers, Limits(max_bytes=4_000_000)) == [data]


def test_a_photo_needs_no_filename() -> None:
    data = bytes(range(90))  # no text
    body, headers = form(("image", data), ("image", b"two"), filename=None)
    assert read([body], headers) == [data, b"two"]


def test_several_photos_come_in_order_and_a_bad_one_is_left_to_be_refused_alone() -> None:
    body, headers = form(("image", b"one"), ("image", b"x" * 5000), ("image", b""))
    photos = read([body], headers)
    assert (photos[0], photos[2]) == (b"one", b"")
    assert len(photos[1]) == 101, "of a file that is too large just enough is kept to refuse it"
    for bad, status in ((photos[1], 413), (photos[2], 400)):
        with pytest.raises(RayfaceError) as caught:
            check_photo(bad, Limits(max_bytes=100))
        assert caught.value.status == status


def test_no_more_photos_than_allowed() -> None:
    body, headers = form(*[("image", b"x")] * 4)
    with pytest.raises(RayfaceError, match="Maximum number of files is 3") as caught:
        read([body], headers)
    assert (caught.value.status, caught.value.kind) == (400, "bad-form")


def test_a_form_is_bounded_as_a_whole() -> None:
    limit = 3 * 100 + MULTIPART_OVERHEAD
    taken = []

    def chunks() -> Iterable[bytes]:
        yield form(("image", b""))[0].removesuffix(b"\r\n--B--\r\n")
        for index in range(1000):
            taken.append(index)
            yield b"x" * 1000

    with pytest.raises(RayfaceError, match=f"form is larger than {limit} bytes"):
        read(chunks(), {"content-type": "multipart/form-data; boundary=B"})
    assert len(taken) < limit / 1000 + 2


def test_places_are_taken_as_the_bytes_come() -> None:
    gate, limits = Gate(limit=4, retry_after=1), Limits(max_bytes=10_000)
    body, headers = form(*[("image", b"x" * 10_000)] * 3)
    taken = []

    def chunks() -> Iterable[bytes]:
        for start in range(0, len(body), 1000):
            taken.append(start)
            yield body[start : start + 1000]

    with gate.request(), gate.request(), gate.request() as cover, pytest.raises(Overloaded):
        read(chunks(), headers, limits, cover=cover)
    assert len(taken) == 30, "the third place is not there: refused at 30000 bytes"
    with gate.request() as cover:
        assert len(read([body], headers, limits, cover=cover)) == 3
    with gate.request(), gate.request(), gate.request() as cover, pytest.raises(Overloaded):
        read([], {**headers, "content-length": str(len(body))}, limits, cover=cover)

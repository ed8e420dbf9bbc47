"""What a request carries and wants, without Ray."""

import asyncio
import uuid
from collections.abc import Iterable
from typing import Any

import pytest
from starlette.requests import Request

from rayface.errors import RayfaceError
from rayface.imaging.codec import Limits
from serve.negotiation import Wanted, image_bytes, multipart_mixed, request_id, wanted


@pytest.mark.parametrize(
    ("accept", "format", "expected"),
    [
        ("", None, Wanted("jpeg", False)),
        ("*/*", None, Wanted("jpeg", False)),
        ("image/*", None, Wanted("jpeg", False)),
        ("image/png", None, Wanted("png", False)),
        ("image/webp, image/png;q=0.5", None, Wanted("webp", False)),
        ("IMAGE/PNG;Q=0.4, image/jpeg; q=0.3", None, Wanted("png", False)),
        ("image/jpeg;q=0, image/*", None, Wanted("png", False)),
        ("text/html, image/png;q=0.2, */*;q=0.1", None, Wanted("png", False)),
        ("multipart/mixed", None, Wanted("jpeg", True)),
        ("multipart/mixed, image/png", None, Wanted("png", True)),
        ("multipart/mixed;q=0.5, image/png", None, Wanted("png", False)),
        ("image/png", "webp", Wanted("webp", False)),
        ("multipart/mixed", "png", Wanted("png", True)),
        ("application/json", "png", Wanted("png", False)),
    ],
)
def test_wanted(accept: str, format: str | None, expected: Wanted) -> None:
    assert wanted(accept, format) == expected


@pytest.mark.parametrize("accept", ["application/json", "image/gif", "image/*;q=0", "image/png;q=x"])
def test_wanted_refuses_what_is_not_offered(accept: str) -> None:
    with pytest.raises(RayfaceError, match="offered are image/jpeg") as caught:
        wanted(accept)
    assert caught.value.status == 406


def test_request_id_keeps_only_harmless_tokens() -> None:
    assert request_id("abc-1.2_3") == "abc-1.2_3"
    for bad in (None, "", "a b", "x" * 129, "../../etc", "a\nb", "ä"):
        assert uuid.UUID(request_id(bad))


def read(chunks: Iterable[bytes], headers: dict[str, str], limits: Limits = Limits(max_bytes=100)) -> bytes:
    """`image_bytes` of a request whose body comes in these chunks."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    taken = iter(messages)

    async def receive() -> Any:
        return next(taken)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    request = Request({"type": "http", "method": "POST", "headers": raw}, receive)
    return asyncio.run(image_bytes(request, limits))


def test_image_bytes_of_a_plain_body() -> None:
    assert read([b"ab", b"cd"], {"content-type": "image/png"}) == b"abcd"
    assert read([b"ab"], {}) == b"ab"


def test_image_bytes_refuses_an_announced_large_body_before_reading_it() -> None:
    async def receive() -> Any:
        raise AssertionError("the body was read")

    request = Request({"type": "http", "method": "POST", "headers": [(b"content-length", b"101")]}, receive)
    with pytest.raises(RayfaceError, match="larger than 100 bytes") as caught:
        asyncio.run(image_bytes(request, Limits(max_bytes=100)))
    assert caught.value.status == 413


def test_image_bytes_stops_reading_at_the_limit() -> None:
    taken = []

    def chunks() -> Iterable[bytes]:
        for index in range(100):
            taken.append(index)
            yield b"x" * 30

    async def run() -> None:
        source = iter(chunks())

        async def receive() -> Any:
            return {"type": "http.request", "body": next(source), "more_body": True}

        await image_bytes(Request({"type": "http", "method": "POST", "headers": []}, receive), Limits(100))

    with pytest.raises(RayfaceError, match="larger than 100 bytes"):
        asyncio.run(run())
    assert len(taken) == 4  # 120 bytes


def form(name: str, data: bytes, filename: str | None = "photo.png") -> tuple[bytes, dict[str, str]]:
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    body = f"--B\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + data + b"\r\n--B--\r\n"
    return body, {"content-type": "multipart/form-data; boundary=B"}


def test_image_bytes_of_a_form() -> None:
    data = bytes(range(90))
    body, headers = form("image", data)
    assert read([body[:40], body[40:]], headers) == data


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (*form("file", b"x"), 400, "no field named image.*file"),
        (*form("image", b"x", filename=None), 400, "send it as a file"),
        (*form("image", b""), 400, "empty"),
        (*form("image", b"x" * 101), 413, "larger than 100 bytes"),
        (b"nonsense", {"content-type": "multipart/form-data; boundary=B"}, 400, "form"),
        (b"nonsense", {"content-type": "multipart/form-data"}, 400, "boundary"),
        (b"{}", {"content-type": "application/json"}, 415, "application/json"),
        (b"", {"content-type": "image/png"}, 400, "empty"),
    ],
)
def test_image_bytes_refusals(body: bytes, headers: dict[str, str], status: int, message: str) -> None:
    with pytest.raises(RayfaceError, match=message) as caught:
        read([body], headers)
    assert caught.value.status == status


def test_a_form_of_several_megabytes_stays_off_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a temporary file was made")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    data = bytes(3_000_000)
    body, headers = form("image", data)
    assert read([body], headers, Limits(max_bytes=4_000_000)) == data


def test_multipart_mixed_is_read_back_by_the_standard_parser() -> None:
    import email.parser
    import email.policy

    parts = [("image/png", b"\x89PNG\r\n\x1a\n\x00--"), ("application/json", b'{"faces": []}')]
    body, content_type = multipart_mixed(parts)
    raw = f"Content-Type: {content_type}\r\n\r\n".encode() + body
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(raw)
    found = [(part.get_content_type(), part.get_payload(decode=True)) for part in message.iter_parts()]
    assert found == parts

"""What a request wants, without Ray."""

import uuid

import pytest

from rayface.errors import RayfaceError
from serve.negotiation import Wanted, request_id, wanted, wants_job


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


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], False),
        (["respond-async"], True),
        (["return=minimal, Respond-Async; foo=1"], True),
        (["wait=10", "respond-async, wait=100"], True),
        (["not-respond-async", "respond-asynchronously"], False),
    ],
)
def test_wants_job(headers: list[str], expected: bool) -> None:
    assert wants_job(headers) is expected

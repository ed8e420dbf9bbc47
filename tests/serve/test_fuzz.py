"""Broken and hostile pictures over HTTP: served or refused with a problem; nothing of their metadata comes back."""

import io
import os
import time
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given, settings
from PIL import Image

from rayface.imaging.codec import Limits
from rayface.store import ModelStore
from serve.settings import Settings
from tests.imaging.pictures import broken, seeds
from tests.serve.in_process import InProcess, served

MOST_S = 2.0


@pytest.fixture(scope="module")
def client(tiny_store: ModelStore) -> Iterator[httpx.Client]:
    """Its service takes small photos only: how long a large one takes is no matter of what is wrong with it."""
    limits = Limits(max_bytes=1_000_000, max_pixels=500_000)
    service = InProcess(tiny_store, Settings(store=tiny_store.uri, steps=("enhance",), limits=limits))
    with served(service) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def answer(client: httpx.Client, data: bytes) -> httpx.Response:
    return client.post("/v1/enhance?format=png", content=data)


def check(found: httpx.Response) -> None:
    if found.status_code != 200:
        assert found.status_code in (400, 413, 415, 422), found.text
        assert found.json()["status"] == found.status_code
        return
    with Image.open(io.BytesIO(found.content)) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert not picture.getexif()
        assert "icc_profile" not in picture.info


def test_every_kind_of_picture(client: httpx.Client) -> None:
    found = {name: answer(client, data) for name, data in seeds().items()}
    for each in found.values():
        check(each)
    assert {found[name].status_code for name in ("jpeg exif 6", "jpeg cmyk", "webp animated", "tiff pages")} == {200}
    assert {name: found[name].status_code for name in ("svg", "png bomb", "png short of pixels")} == {
        "svg": 415, "png bomb": 413, "png short of pixels": 413,
    }  # fmt: skip


def many(client: httpx.Client, count: int) -> None:
    @given(broken())
    @settings(max_examples=count)
    def run(data: bytes) -> None:
        started = time.process_time()
        try:
            check(answer(client, data))
            assert time.process_time() - started < MOST_S
        except Exception as error:
            raise AssertionError(f"{len(data)} bytes, {data[:200]!r}: {error!r}") from error

    run()


def test_broken_pictures(client: httpx.Client) -> None:
    many(client, 40)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_very_many_broken_pictures(client: httpx.Client) -> None:
    many(client, int(os.environ.get("RAYFACE_FUZZ", "500")))

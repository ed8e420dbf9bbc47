"""Broken and hostile pictures over HTTP: served or refused with a problem; nothing of their metadata comes back."""

import asyncio
import io
import os
import time

import httpx
import pytest
from hypothesis import given, settings
from PIL import Image

from rayface.imaging.codec import Limits
from rayface.store import ModelStore
from serve.settings import Settings
from tests.imaging.pictures import broken, seeds
from tests.serve.in_process import InProcess, client_of

MOST_S = 2.0


@pytest.fixture(scope="module")
def service(tiny_store: ModelStore) -> InProcess:
    """Its photos are small: how long a large one takes is no matter of what is wrong with it."""
    limits = Limits(max_bytes=1_000_000, max_pixels=500_000)
    return InProcess(tiny_store, Settings(store=tiny_store.uri, steps=("enhance",), limits=limits))


def answers(service: InProcess, pictures: list[bytes]) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        async with client_of(service) as client:
            return [await client.post("/v1/enhance?format=png", content=data) for data in pictures]

    return asyncio.run(run())


def check(answer: httpx.Response) -> None:
    if answer.status_code != 200:
        assert answer.status_code in (400, 413, 415, 422), answer.text
        assert answer.json()["status"] == answer.status_code
        return
    with Image.open(io.BytesIO(answer.content)) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert not picture.getexif()
        assert "icc_profile" not in picture.info


def test_every_kind_of_picture(service: InProcess) -> None:
    found = dict(zip(seeds(), answers(service, list(seeds().values())), strict=True))
    for answer in found.values():
        check(answer)
    assert {found[name].status_code for name in ("jpeg exif 6", "jpeg cmyk", "webp animated", "tiff pages")} == {200}
    assert {name: found[name].status_code for name in ("svg", "png bomb", "png short of pixels")} == {
        "svg": 415, "png bomb": 413, "png short of pixels": 413,
    }  # fmt: skip


def many(service: InProcess, count: int) -> None:
    @given(broken())
    @settings(max_examples=count)
    def run(data: bytes) -> None:
        started = time.process_time()
        try:
            check(*answers(service, [data]))
            assert time.process_time() - started < MOST_S
        except Exception as error:
            raise AssertionError(f"{len(data)} bytes, {data[:200]!r}: {error!r}") from error

    run()


def test_broken_pictures(service: InProcess) -> None:
    many(service, 40)


@pytest.mark.slow
def test_very_many_broken_pictures(service: InProcess) -> None:
    many(service, int(os.environ.get("RAYFACE_FUZZ", "1000")))

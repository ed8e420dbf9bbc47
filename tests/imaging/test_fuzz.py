"""Broken and hostile pictures: each is decoded or refused, cleanly and quickly."""

import os
import time

import pytest
import torch
from hypothesis import given, settings

from rayface.errors import RayfaceError
from rayface.imaging import codec
from tests.imaging.pictures import SIDE, broken, seeds

LIMITS = codec.Limits(20 * 1024 * 1024, 24_000_000)  # the service's
MOST_S = 2.0
REFUSED = {"empty-image": 400, "not-an-image": 415, "corrupt-image": 422, "image-too-large": 413}
CLEAN = ("jpeg", "png", "webp", "bmp", "tiff")


def check(data: bytes) -> torch.Tensor | None:
    """The photo of `data`, None where it is refused as it should be."""
    photo, refusal = None, None
    started = time.thread_time()  # of this thread: the machine may be busy with others
    try:
        photo = codec.decode(data, LIMITS)
    except RayfaceError as error:
        refusal = error
    seconds = time.thread_time() - started
    assert seconds < MOST_S
    if photo is None:
        assert refusal is not None
        assert REFUSED[refusal.kind] == refusal.status
        assert len(str(refusal)) < 500
        return None
    assert photo.dtype == torch.uint8
    assert photo.dim() == 3
    assert photo.shape[0] == 3
    assert photo.shape[1] * photo.shape[2] <= LIMITS.max_pixels
    return photo


@pytest.mark.parametrize("name", sorted(seeds()))
def test_every_kind_of_picture_is_decoded_or_refused(name: str) -> None:
    photo = check(seeds()[name])
    valid = name.startswith(CLEAN) and not any(word in name for word in ("bomb", "size", "short", "many"))
    assert (photo is not None) == valid
    if photo is not None:
        assert sorted(photo.shape[1:]) == sorted(SIDE)


def many_broken_pictures(count: int) -> None:
    """Only the first 200 bytes of a failing one are shown."""

    @given(broken())
    @settings(max_examples=count)
    def run(data: bytes) -> None:
        try:
            check(data)
        except Exception as error:
            raise AssertionError(f"{len(data)} bytes, {data[:200]!r}: {error!r}") from error

    run()


def test_broken_pictures() -> None:
    many_broken_pictures(150)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_very_many_broken_pictures() -> None:
    many_broken_pictures(int(os.environ.get("RAYFACE_FUZZ", "5000")))

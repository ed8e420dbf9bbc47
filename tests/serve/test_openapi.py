"""The OpenAPI document is true: what schemathesis makes of it is answered as it says, over real HTTP."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from rayface.imaging.codec import encode
from rayface.store import ModelStore
from serve.openapi import REASONS
from serve.routes import create_app
from serve.settings import Settings
from tests.scenes import scene
from tests.serve.in_process import InProcess, served

schemathesis = pytest.importorskip("schemathesis")
SETTINGS = Settings(steps=("enhance",), max_jobs=8, max_photos=3)


def photos() -> st.SearchStrategy[bytes]:
    plain = torch.full((3, 40, 60), 127, dtype=torch.uint8)
    small = encode(plain, "png")
    return st.sampled_from([small, encode(plain, "jpeg"), encode(scene(0), "jpeg"), small[:60], b"GIF89a", b""])


@dataclass
class Described:
    """What the OpenAPI document is made from."""

    settings: Settings


def described() -> Any:
    """The document as schemathesis reads it."""
    # Of the bytes that a schema can ask for none is a picture: these are, or nearly.
    for kind in ("image/jpeg", "image/png", "image/webp", "application/octet-stream"):
        schemathesis.openapi.media_type(kind, photos())
    schemathesis.openapi.format("binary", photos())
    schema = schemathesis.openapi.from_dict(create_app(Described(SETTINGS)).openapi())  # type: ignore[arg-type]
    # That a photo is broken or too large no schema can say: valid by it, it may be refused.
    refusals = [str(status) for status in REASONS if status not in (401, 408, 500, 504)]
    schema.config.checks.positive_data_acceptance.expected_statuses = ["2xx", *refusals]
    return schema


@pytest.fixture(scope="module")
def address(tiny_store: ModelStore) -> Iterator[str]:
    from dataclasses import replace

    with served(InProcess(tiny_store, replace(SETTINGS, store=tiny_store.uri))) as address:
        yield address


@described().parametrize()
@hypothesis.settings(max_examples=10)
def test_answers_are_as_documented(case: Any, address: str) -> None:
    case.call_and_validate(base_url=address, timeout=20)

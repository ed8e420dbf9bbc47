"""What the tests of the HTTP interface share."""

import pytest

from rayface.imaging.codec import encode
from rayface.store import ModelStore
from tests.scenes import scene
from tests.tiny_models import save_tiny_models


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """Tiny models, the release behind them."""
    return save_tiny_models(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def face_png() -> bytes:
    """A drawn face."""
    return encode(scene(0), "png")

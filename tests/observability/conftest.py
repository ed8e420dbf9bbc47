import pytest

from rayface.imaging.codec import encode
from tests.scenes import scene


@pytest.fixture(scope="session")
def face_png() -> bytes:
    """A drawn face."""
    return encode(scene(0), "png")

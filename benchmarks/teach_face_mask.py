"""Teach a beautifier anew where a face and its features are, and nothing else: `beauty@r2` comes from `beauty@r1`.

    python -m benchmarks.teach_face_mask beauty@r1 --data DIR --store runs/store [--steps 600]

The face mask begins as the model's own; where that knows the face alone, what says where eyes, brows, lips and mouth
are begins at nothing. NetS, the model's own parser, teaches it. The result goes into the store under the same name.
"""

import argparse
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from rayface.data.dataset import FaceDataset
from rayface.networks.beautifier import Amounts
from rayface.store import open_store
from rayface.systems.base import PhaseState
from rayface.systems.beauty import Beauty
from rayface.training.loop import StepBatches
from rayface.training.workers import solo

KEPT = ("licence", "terms", "commercial_use", "run", "init", "data", "trained_with", "command", "steps")
HALF_LIFE = 50  # steps, of the average that is stored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--store", default="")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()

    store, system = open_store(arguments.store or None), Beauty()
    loaded = store.load(arguments.model)
    known = replace(loaded.config, face_mask=replace(loaded.config.face_mask, classes=2), amounts=Amounts())
    mask = begun(system, known, loaded.networks["face_mask"]).to(memory_format=torch.channels_last)
    parser_network = store.load_network(known.parser).to(memory_format=torch.channels_last)
    training = replace(known, global_batch=arguments.batch)
    average = taught(system, training, mask, parser_network, arguments.data, arguments.steps)
    networks = {**loaded.networks, "face_mask": average}
    details = {key: value for key, value in loaded.info.items() if key in KEPT}
    print(store.save(loaded.name, system.name, known, networks, details=details))


def begun(system: Beauty, config: Any, before: nn.Module) -> nn.Module:
    """A face mask of two channels that says what `before`, of one or two, says."""
    mask = system.build(config)["face_mask"]
    state = before.state_dict()
    missing = config.face_mask.classes - len(state["head.weight"])
    if missing:
        state["head.weight"] = torch.cat([state["head.weight"], torch.zeros_like(state["head.weight"][:missing])])
        state["head.bias"] = torch.cat([state["head.bias"], torch.full_like(state["head.bias"][:missing], -4.0)])
    mask.load_state_dict(state)
    return mask


def taught(system: Beauty, config: Any, mask: nn.Module, parser: nn.Module, data: str, steps: int) -> nn.Module:
    """The average over the last steps of the mask's training, by the system's own loss and batches."""
    batches = StepBatches(system, config, FaceDataset(data, "train", config.size, system.labels), solo())
    optimiser = torch.optim.Adam(mask.parameters(), config.autoencoder_rate, (0.9, 0.99))
    average = torch.optim.swa_utils.AveragedModel(
        mask, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5 ** (1 / HALF_LIFE))
    )
    for step in range(steps):
        state = PhaseState(config, step, {"parser": parser})
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
            loss, _ = system._face_mask_loss(batches[step], {"face_mask": mask}, state)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        average.update_parameters(mask)
        if step % 10 == 0:
            print(f"{step}: {float(loss.detach()):.4f}", flush=True)
    result: nn.Module = average.module
    return result.eval().requires_grad_(False)


if __name__ == "__main__":
    main()

"""Is a network narrowed from a teacher better than one of its size trained from nothing, in as many steps?

    python -m benchmarks.student --data DIR --out runs/student --teacher enhancement --set-from best.json
        [--steps 1500] [--seeds 0 1 2] [--arms narrowed fresh] [--threads 1] [--set k=v]

Both arms have the same widths, losses, batches and teacher (whose features both imitate); the only difference is what
they begin with: `narrowed` with the teacher's surviving weights, `fresh` with new ones. Judged on the test split beside
the teacher, judges included. Arms and seeds can run in processes of their own; whoever runs last prints the whole
table. Stops and goes on where it was.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import nn

from benchmarks.arms import begin, run_options
from rayface.comparison import evaluated, table, trained_and_judged
from rayface.compression.channels import channel_groups, surviving
from rayface.configuration import override
from rayface.networks.enhancer import Enhancer
from rayface.networks.widths import apply_widths, cut, read_widths
from rayface.store import ModelStore, open_store
from rayface.training.request import TrainRequest, read_search

METRICS = (
    "all.model.psnr", "easy.gain_over_input.psnr", "medium.gain_over_input.psnr", "hard.gain_over_input.psnr",
    "psnr_gain", "all.model.perceptual_distance", "all.perceptual_gain.over_input", "all.model.identity_distance",
)  # fmt: skip


def fresh_start(arguments: argparse.Namespace, seed: int, overrides: tuple[str, ...]) -> str:
    """A model of the narrowed widths with new weights; returns the folder it lies in."""
    held = ModelStore(f"{arguments.out}/fresh-{seed}-start")
    if not held.versions("enhancement"):
        teacher = open_store(None).load(arguments.teacher)
        settings = [assignment.removeprefix("enhancement.") for assignment in overrides]
        pruning = override(teacher.config, settings).pruning
        if pruning.gate or pruning.rounds != 1:
            raise SystemExit(f"{arguments.set_from}: one round without the gate, as a pruning search writes it")
        network = teacher.networks["enhancer"]
        example = torch.zeros(1, 3, teacher.config.size, teacher.config.size)
        ratios = pruning.asked([group.name for group in channel_groups(network, example)])
        widths = read_widths(cut(network, surviving(network, example, ratios, pruning.round_to)))
        torch.manual_seed(seed)
        fresh = apply_widths(Enhancer(teacher.config.enhancer), widths)
        start_anew(fresh)
        held.save("enhancement", "enhancement", teacher.config, {"enhancer": fresh})
    return held.folder("enhancement")


def start_anew(fresh: nn.Module) -> None:
    """What an Enhancer sets of its new layers, which those of other widths lack."""
    for name, layer in fresh.named_modules():
        if name.endswith("to_rgb"):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif name.endswith((".scale", ".shift")):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)


def run(arguments: argparse.Namespace, arm: str, seed: int, overrides: tuple[str, ...]) -> None:
    """Train and judge one arm with one seed."""
    settings = [f"teacher={arguments.teacher}", f"steps={arguments.steps}", f"seed={seed}", *arguments.set]
    if arm == "fresh":
        init, settings = fresh_start(arguments, seed, overrides), [*settings, "pruning.rounds=0"]
    else:
        init, settings = arguments.teacher, [*overrides, *settings]
    name = f"{arm}-{seed}"
    request = TrainRequest(
        ("enhancement",), arguments.data, "", init=init, storage=arguments.out, store=f"{arguments.out}/{name}-store",
        name=name, overrides=tuple(settings),
    )  # fmt: skip
    trained_and_judged(request, arm, seed, METRICS, arguments.limit)


def main() -> None:
    parser = run_options(__doc__, steps=1500)
    parser.add_argument("--teacher", default="enhancement")
    parser.add_argument("--set-from", required=True)
    parser.add_argument("--arms", nargs="+", default=["narrowed", "fresh"])
    arguments = begin(parser)
    overrides, _ = read_search(arguments.set_from)
    for seed in arguments.seeds:
        for arm in arguments.arms:
            run(arguments, arm, seed, overrides)
    teacher = Path(arguments.out, "teacher.json")
    if not teacher.exists():
        found = evaluated("enhancement", arguments.data, None, arguments.teacher, METRICS, arguments.limit)
        teacher.write_text(json.dumps({"arm": "teacher", **found}, indent=1) + "\n")
    print(table(Path(arguments.out), METRICS))


if __name__ == "__main__":
    main()

"""What the preset *base* needs of a GPU, counted: parameters, floating-point operations and memory of a training step.

    python benchmarks/base_needs.py [SYSTEM ...] [--tflops 200] [--memory 80]

One real training step of each system runs on the CPU with two drawn faces of the preset's size. Operations are
counted by torch's own formulas (forward, backward and every regulariser, those weighed by how seldom they run),
memory is counted as weights, gradients, optimiser state and averages (bytes of the tensors there are), plus what
autograd keeps of the two faces, per face. Faces per second are that count at --tflops sustained (bf16; an H100 reaches
200-400 of its 990 on such convolutions): a count, not a measurement.
"""

import argparse
import json
import tempfile
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from rayface.data.dataset import FaceDataset
from rayface.data.synth import synthesise
from rayface.systems.base import SYSTEMS, Phase, get_system, resolve_config
from rayface.training.loop import StepBatches, Training
from rayface.training.workers import solo

FACES = 2


class Flops(TorchDispatchMode):
    """Counts what runs under it. (FlopCounterMode does the same and fails on R1's `autograd.grad` of an input.)"""

    total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if formula := flop_registry.get(function.overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def needs(name: str, data: str, tflops: float, memory: float) -> dict[str, Any]:
    """Counts for one system; `memory` in GiB decides how many faces fit."""
    system = get_system(name)
    preset = system.config("base")
    overrides = [f"global_batch={FACES}", "compile=false"]
    config = resolve_config(system, "base", overrides)
    dataset = FaceDataset(data, None, config.size, system.labels)
    config = system.fitted(config, dataset)
    training = Training.start(system, config, solo())
    batch = training.to_device(StepBatches(system, config, dataset, solo())[0])
    flops, kept = 0.0, 0
    for phase in system.phases(config):
        phase_flops, phase_kept = count(training, phase, batch)
        flops += phase_flops / phase.every
        kept = max(kept, phase_kept)
    weights = sum(p.numel() for network in training.networks.values() for p in network.parameters())
    averaged = sum(p.numel() for network in training.average.values() for p in network.parameters())
    fixed = 16 * weights + 4 * averaged  # fp32 weight, gradient, two moments; the average
    per_face = kept / FACES
    return {
        "size": config.size,
        "million_parameters": round(weights / 1e6, 1),
        "gflop_per_face_and_step": round(flops / FACES / 1e9, 1),
        "fixed_gib": round(fixed / 2**30, 2),
        "gib_per_face": round(per_face / 2**30, 3),
        "faces_that_fit": int((0.9 * memory * 2**30 - fixed) / per_face),
        "faces_per_second_counted": round(tflops * 1e12 * FACES / flops, 1),
        "gpu_hours_counted": round(preset.steps * preset.global_batch * flops / FACES / (tflops * 1e12) / 3600, 1),
    }


def count(training: Training, phase: Phase, batch: dict[str, torch.Tensor]) -> tuple[float, int]:
    """Floating-point operations and bytes kept for the backward pass of one phase."""
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with Flops() as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        training._run_phase(phase, batch, training.phase_state())
    return float(counter.total), sum(sizes.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("systems", nargs="*", default=list(SYSTEMS))
    parser.add_argument("--tflops", type=float, default=200.0)
    parser.add_argument("--memory", type=float, default=80.0, help="of the GPU, in GiB")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        largest = max(get_system(name).config("base").size for name in args.systems)
        synthesise(folder, count=8, size=largest)
        report = {name: needs(name, folder, args.tflops, args.memory) for name in args.systems}
    print(json.dumps({"tflops": args.tflops, "memory_gib": args.memory, "systems": report}, indent=1))


if __name__ == "__main__":
    main()

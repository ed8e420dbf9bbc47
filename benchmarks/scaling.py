"""What training and serving cost on one core, measured, and what that makes of many GPUs and many requests, estimated.

    python -m benchmarks.scaling train [SYSTEM ...] [--preset small] [--steps 3]
    python -m benchmarks.scaling serve [--photos 3]

`train`: a process for each system with one thread, drawn faces, released models as teachers, late steps (every phase
runs). Measured: CPU seconds a face, peak memory. Counted: operations a face and step, frozen networks included
(`base_needs.Flops`), and bytes that an all-reduce moves a step: 4 for every parameter of the networks that a phase
trains, weighed by how seldom it runs. Estimated from the counts alone, with --tflops and --gigabytes: see `estimate`.
`serve`: CPU seconds of a photo of one face through `Pipeline` and the codec, one thread, for every step that the
release offers. CPU seconds, not wall time: other programs on the machine matter less.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.base_needs import Flops
from rayface.data.dataset import FaceDataset
from rayface.data.synth import draw_scene, synthesise
from rayface.systems.base import SYSTEMS, get_system, resolve_config
from rayface.training.loop import StepBatches, Training
from rayface.training.request import load_frozen
from rayface.training.workers import solo

GPUS = (8, 64, 512)
FACES = 24  # drawn ones
LATE = 0.9  # share of the steps after which every phase of a schedule runs
STEPS = {
    "enhance": {}, "upscale": {}, "beautify": {}, "facial_hair": {"style": "full"},
    "edit_attributes": {"add": ("Smiling",)}, "swap": {"consent": True},
}  # fmt: skip


def train_costs(name: str, preset: str, steps: int) -> dict[str, Any]:
    """Measured and counted for one system, in this process."""
    from rayface.store import release_store

    torch.set_num_threads(1)
    system = get_system(name)
    with tempfile.TemporaryDirectory() as folder:
        config = resolve_config(system, preset, ["ratio=[]"] if name == "facial_hair" else [])
        synthesise(folder, count=FACES, size=config.size)
        dataset = FaceDataset(folder, None, config.size, system.labels)
        config = system.fitted(config, dataset)
        frozen = load_frozen(release_store(), system.frozen_models(config))
        training = Training.start(system, config, solo(), frozen)
        training.step = int(LATE * config.steps)
        batch = training.to_device(StepBatches(system, config, dataset, solo())[training.step])
        training.run_step(batch)  # the first one allocates
        began = time.process_time()
        for _ in range(steps):
            training.run_step(batch)
        seconds = (time.process_time() - began) / steps
        phases = [phase for phase in system.phases(config) if phase.due(training.step) or phase.every > 1]
        flops = 0.0
        for phase in phases:
            with Flops() as counter:
                training._run_phase(phase, batch, training.phase_state())
            flops += counter.total / phase.every
        specs = system.optimizers(config)
        moved = sum(_gradients(training, specs[phase.optimizer].networks) / phase.every for phase in phases)
    return {
        "system": name, "side": config.size, "batch": config.global_batch,
        "cpu_seconds_a_face": seconds / config.global_batch,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "gflop_a_face": flops / config.global_batch / 1e9,
        "all_reduce_mb_a_step": moved / 1e6,
    }  # fmt: skip


def _gradients(training: Training, names: Sequence[str]) -> int:
    """Bytes of the networks' gradients, in fp32."""
    return sum(4 * parameter.numel() for name in names for parameter in training.networks[name].parameters())


def estimate(
    gflop_a_face: float, all_reduce_mb: float, gpus: int, faces: int, tflops: float, gigabytes: float
) -> tuple[float, float]:
    """Faces/s of `gpus` and the share of the time that they compute, with `faces` a GPU and step.

    A ring all-reduce of all gradients in fp32, 2 (n - 1) / n of their bytes through the slowest link of `gigabytes` a
    second, after the backward pass and not beside it (DDP hides a part: this is the worst case). Latency, loading of
    data, stragglers and checkpoints are left out.
    """
    compute = faces * gflop_a_face / (tflops * 1000)
    exchange = 2 * (gpus - 1) / gpus * all_reduce_mb / (gigabytes * 1000)
    return gpus * faces / (compute + exchange), compute / (compute + exchange)


def serve_costs(photos: int) -> dict[str, float]:
    """CPU seconds a photo, with one thread, by step; `codec`: decoding, encoding and signing alone."""
    import dataclasses

    from rayface.credentials import Signer, xmp
    from rayface.imaging.codec import decode, encode
    from rayface.pipeline import Pipeline
    from rayface.store import release_store
    from rayface.work import Params

    torch.set_num_threads(1)
    files = [encode(draw_scene(7, index, (768, 1024), 1).photo, "jpeg", 92) for index in range(photos + 1)]
    signer, costs = Signer(), {}
    for step, asked in STEPS.items():
        pipeline = Pipeline.from_store(release_store(), [step])
        params = Params(**asked)
        if step == "swap":
            params = dataclasses.replace(params, donor=pipeline.donor(files[0]))
        spent = []
        for number, data in enumerate(files):
            began = time.process_time()
            result = pipeline.process(decode(data), [step], params)
            report = dataclasses.asdict(result.report)
            signer.sign(encode(result.photo, "jpeg", 92, xmp(report)), "jpeg", report, data)
            spent.append(time.process_time() - began)
            if not number:
                spent.clear()  # the first one allocates
        costs[step] = sum(spent) / len(spent)
    began = time.process_time()
    for data in files[1:]:
        signer.sign(encode(decode(data), "jpeg", 92), "jpeg", report, data)
    return {**costs, "codec": (time.process_time() - began) / photos}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "serve"))
    parser.add_argument("systems", nargs="*", default=list(SYSTEMS))
    parser.add_argument("--preset", default="small")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--photos", type=int, default=3)
    parser.add_argument("--faces", type=int, default=32, help="a GPU and step, in the estimates")
    parser.add_argument("--tflops", type=float, default=200.0, help="sustained by a GPU, in the estimates")
    parser.add_argument("--gigabytes", type=float, default=25.0, help="a second and GPU, of the slowest link")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # the process of one system
    arguments = parser.parse_args()
    if arguments.what == "serve":
        print("| step | CPU seconds a photo |\n|---|---|")
        for step, seconds in serve_costs(arguments.photos).items():
            print(f"| {step} | {seconds:.2f} |", flush=True)
    elif arguments.alone:
        print(json.dumps(train_costs(arguments.systems[0], arguments.preset, arguments.steps)))
    else:
        _tables(arguments)


def _tables(arguments: argparse.Namespace) -> None:
    heads = [f"{gpus} GPUs, faces/s (computing)" for gpus in GPUS]
    print("| system (side) | CPU ms a face | peak GiB | GFLOP a face | MB all-reduced | " + " | ".join(heads) + " |")
    print("|---" * (5 + len(GPUS)) + "|", flush=True)
    for name in arguments.systems:
        command = [sys.executable, "-m", "benchmarks.scaling", "train", name, "--alone", "--preset", arguments.preset]
        done = subprocess.run([*command, "--steps", str(arguments.steps)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr[-2000:]}")
        costs = json.loads(done.stdout.splitlines()[-1])
        cells = [f"{name} ({costs['side']})", f"{1000 * costs['cpu_seconds_a_face']:.0f}", f"{costs['peak_gib']:.1f}"]
        cells += [f"{costs['gflop_a_face']:.1f}", f"{costs['all_reduce_mb_a_step']:.1f}"]
        for gpus in GPUS:
            counts = (costs["gflop_a_face"], costs["all_reduce_mb_a_step"], gpus)
            faces, share = estimate(*counts, arguments.faces, arguments.tflops, arguments.gigabytes)
            cells.append(f"{faces:,.0f} ({share:.2f})")
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

"""How long models of a system take for one face, side by side, on the CPU.

    python -m benchmarks.latency enhancement enhancement_small [--store DIR] [--threads 1 2] [--rounds 7] [--onnx]

Models in alternating rounds (the machine's other work falls on all of them), as they are served (channels_last), in
float32 and in bfloat16 autocast, with --onnx also exported and run by ONNX Runtime. Of each round the median of 15
passes; printed are the median round, and how many times quicker than the first model a model is (the median of the
ratios within rounds, lowest to highest round).
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torch import nn

from rayface.compression.cost import latency_ms, median_ms, multiplications
from rayface.exchange.exports import export_model
from rayface.store import LoadedModel, open_store
from rayface.systems.base import get_system

PASSES = 15
Measure = Callable[[], float]


def network_of(model: LoadedModel) -> nn.Module:
    return model.networks[get_system(model.system).released[0]]


def in_torch(network: nn.Module, example: torch.Tensor, dtype: torch.dtype) -> Measure:
    def measure() -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            return latency_ms(network, example, PASSES)

    return measure


def in_onnx(model: LoadedModel, example: torch.Tensor, threads: int, folder: Path) -> Measure:
    """Of a model whose one network `rayface models export` writes."""
    import onnxruntime

    file = folder / f"{model.ref}.onnx"
    if not file.exists():
        export_model(model, file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: example.numpy()}

    return lambda: median_ms(lambda: session.run(None, feed), PASSES)


def compare(measures: dict[str, Measure], rounds: int) -> list[tuple[str, float, list[float]]]:
    """(name, median ms, how many times quicker than the first in each round)."""
    times: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            times[name].append(measure())
    first = next(iter(times.values()))
    return [(name, median(own), [a / b for a, b in zip(first, own, strict=True)]) for name, own in times.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--store")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--onnx", action="store_true")
    arguments = parser.parse_args()
    store = open_store(arguments.store)
    models = [store.load(reference) for reference in arguments.models]
    for model in models:
        example = torch.zeros(1, 3, model.config.size, model.config.size)
        print(f"{model.ref}: {multiplications(network_of(model), example) / 1e6:.0f} million multiplications")
    print("| threads | how | model | ms | times quicker |\n|---|---|---|---|---|")
    with TemporaryDirectory() as folder:
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            ways: dict[str, Callable[[LoadedModel], Measure]] = {
                "float32": lambda model: in_torch(network_of(model), example, torch.float32),
                "bfloat16": lambda model: in_torch(network_of(model), example, torch.bfloat16),
            }
            if arguments.onnx:
                ways["ONNX Runtime"] = lambda model, n=threads: in_onnx(model, example, n, Path(folder))  # type: ignore[misc]
            for way, build in ways.items():
                found = compare({model.ref: build(model) for model in models}, arguments.rounds)
                for name, ms, ratios in found:
                    span = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                    print(f"| {threads} | {way} | {name} | {ms:.1f} | {span} |", flush=True)


if __name__ == "__main__":
    main()

"""Teach a narrower retoucher to give what a trained one gives, so that the model weighs less.

    python -m benchmarks.narrow_retoucher beauty@1 --data DIR --store runs/store [--width 64 --blocks 3 --steps 1000]

Both see the latents of the train split's faces, as they are and mirrored; nothing but the retoucher is changed, and no
judge or loss network is asked. The result goes into the store under the same name. Printed is, for each field, which
share of its variance on the validation split the narrower one misses.
"""

import argparse
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.averaging import averaged
from rayface.data.dataset import FaceDataset
from rayface.imaging.codec import to_float
from rayface.imaging.filters import gaussian_blur
from rayface.networks.autoencoder import Retoucher
from rayface.networks.beautifier import RETOUCHED
from rayface.randomness import generator
from rayface.store import open_store
from rayface.terms import inherited

KEPT = ("run", "trained_with", "steps", "data")
CELL = 8  # px of a latent
RATE = 3e-4
BATCH = 16
HALF_LIFE = 100  # steps, of the average that is stored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--store", required=True)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    arguments = parser.parse_args()

    store = open_store(arguments.store)
    loaded = store.load(arguments.model)
    if "retoucher" not in loaded.networks:
        parser.error(f"{loaded.ref} has no retoucher")
    shape = replace(loaded.config.translator, retouch_width=arguments.width, retouch_blocks=arguments.blocks)
    torch.manual_seed(0)
    student = Retoucher(shape, loaded.config.autoencoder.latent_channels)
    seen = latents_of(loaded.networks, FaceDataset(arguments.data, "train", loaded.config.size))
    average = taught(student, loaded.networks["retoucher"], seen, arguments.steps)
    held_out = latents_of(loaded.networks, FaceDataset(arguments.data, "validation", loaded.config.size))
    print("missed:", [f"{share:.3f}" for share in missed(average, loaded.networks["retoucher"], held_out)])
    details = {
        **{key: value for key, value in loaded.info.items() if key in KEPT},
        **inherited({"init": loaded.info}),
        "init": loaded.ref,
        "command": loaded.info.get("command", "")
        + f"; python -m benchmarks.narrow_retoucher {loaded.ref} --data DIR --width {arguments.width} "
        f"--blocks {arguments.blocks} --steps {arguments.steps}",
    }
    config = replace(loaded.config, translator=shape)
    networks = {**loaded.networks, "retoucher": average}
    print(store.save(loaded.name, "beauty", config, networks, details=details))


@torch.inference_mode()
def latents_of(networks: Any, dataset: FaceDataset) -> tuple[Tensor, Tensor]:
    """Of every face and its mirror image: the latents before and after the translator, float16 [2 N, C, s, s] each."""
    before, after = [], []
    for start in range(0, len(dataset), BATCH):
        crops = dataset.batch(range(start, min(start + BATCH, len(dataset))))["image"]
        assert isinstance(crops, Tensor)
        images = to_float(crops)
        latents = networks["aligner"](networks["ordinary_encoder"](torch.cat([images, images.flip(-1)])))
        before.append(latents.half())
        after.append(networks["translator"](latents).half())
    return torch.cat(before), torch.cat(after)


def taught(student: nn.Module, teacher: nn.Module, seen: tuple[Tensor, Tensor], steps: int) -> nn.Module:
    """The average over the last steps of a regression on the teacher's fields, each weighed by how much it varies."""
    with torch.no_grad():
        deviation = softened(teacher, *(part[:256] for part in seen)).std((0, 2, 3), keepdim=True)

    def loss_at(step: int) -> Tensor:
        chosen = torch.from_numpy(generator(0, step, stream="retoucher").integers(len(seen[0]), size=BATCH))
        inputs = [part[chosen] for part in seen]
        with torch.no_grad():
            wanted = softened(teacher, *inputs)
        return ((softened(student, *inputs) - wanted) / deviation).square().mean()

    def rate_at(step: int) -> float:
        return RATE * min((step + 1) / 100, 1, (steps - step) / (steps / 2))

    return averaged(student, loss_at, steps, rate_at, HALF_LIFE, told_every=200)


def softened(retoucher: nn.Module, latents: Tensor, translated: Tensor) -> Tensor:
    """Its fields, as smooth as they are used: what a cell alone has is blurred away."""
    return gaussian_blur(retoucher(latents.float(), translated.float()), RETOUCHED / CELL)


@torch.inference_mode()
def missed(student: nn.Module, teacher: nn.Module, seen: tuple[Tensor, Tensor]) -> list[float]:
    """Which share of the variance of light, colourfulness and detail the student does not give."""
    wanted, given = (softened(network, *seen) for network in (teacher, student))
    return ((given - wanted).square().mean((0, 2, 3)) / wanted.var((0, 2, 3))).tolist()


if __name__ == "__main__":
    main()

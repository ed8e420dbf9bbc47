"""Teach a beautifier anew where a face and its features are, and nothing else.

    python -m benchmarks.teach_face_mask beauty@r1 --data DIR --store runs/store [--steps 600]

The face mask begins as the model's own; where that knows the face alone, what says where eyes, brows, lips and mouth
are begins at nothing. The masks of the data set teach it (`rayface data label --with masks`: the parser's, where nobody
drew one). The result goes into the store under the same name.
"""

import argparse
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.averaging import averaged
from rayface.data.dataset import FaceDataset
from rayface.imaging.codec import to_float
from rayface.networks.beautifier import Amounts
from rayface.randomness import generator
from rayface.records import PARSING_ID
from rayface.store import open_store
from rayface.systems.beauty import Beauty
from rayface.systems.constraints import FACE, FEATURES
from rayface.terms import dataset_terms, inherited

KEPT = ("run", "trained_with")
RATE = 3e-3
FEATURES_WEIGH = 3.0  # they are a thirtieth of the picture
HALF_LIFE = 25  # steps, of the average that is stored


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
    amounts = loaded.config.amounts if loaded.config.face_mask.classes == 2 else Amounts()
    known = replace(loaded.config, face_mask=replace(loaded.config.face_mask, classes=2), amounts=amounts)
    mask = begun(system, known, loaded.networks["face_mask"]).to(memory_format=torch.channels_last)
    dataset = FaceDataset(arguments.data, "train", known.size, ("mask",))
    average = taught(mask, dataset, arguments.steps, arguments.batch)
    networks = {**loaded.networks, "face_mask": average}
    sources = {f"data ({dataset.manifest.get('format')})": dataset_terms(dataset.manifest), "init": loaded.info}
    details = {
        **{key: value for key, value in loaded.info.items() if key in KEPT},
        **inherited(sources),
        "init": loaded.ref,
        "steps": arguments.steps,
        "command": f"python -m benchmarks.teach_face_mask {loaded.ref} --data DIR --steps {arguments.steps}",
        "data": {"digest": dataset.digest, "format": dataset.manifest.get("format"), "faces": len(dataset)},
    }
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


def taught(mask: nn.Module, dataset: FaceDataset, steps: int, batch: int) -> nn.Module:
    """The average over the last steps of the mask's training on the data set's masks; mirrored as often as not."""
    parts = [torch.tensor([PARSING_ID[name] for name in names]) for names in (FACE, FEATURES)]
    heavier = torch.tensor([1.0, FEATURES_WEIGH]).view(2, 1, 1)

    def loss_at(step: int) -> torch.Tensor:
        random = generator(0, step, stream="face mask")
        drawn = dataset.batch(random.choice(len(dataset), batch, replace=False), ("image", "mask"))
        crops, masks = drawn["image"], drawn["mask"]
        assert isinstance(crops, torch.Tensor)
        assert isinstance(masks, torch.Tensor)
        images = to_float(crops)
        if random.random() < 0.5:
            images, masks = images.flip(-1), masks.flip(-1)
        wanted = torch.stack([torch.isin(masks, names) for names in parts], 1).float()
        with torch.autocast("cpu", torch.bfloat16):
            logits = mask(images.contiguous(memory_format=torch.channels_last)).float()
        return F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=heavier)

    def rate_at(step: int) -> float:
        return RATE * min(1, (steps - step) / (steps / 3))

    return averaged(mask, loss_at, steps, rate_at, HALF_LIFE, told_every=20)


if __name__ == "__main__":
    main()

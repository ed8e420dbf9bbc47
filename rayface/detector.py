"""Face detection with five landmarks: a batched cascade of three networks (MTCNN, see `networks.mtcnn`).

    from rayface.detector import load_detector
    faces = load_detector().detect([photo])[0]  # photo: uint8 [3, H, W]
    faces.boxes, faces.landmarks, faces.scores

Photos of one size go through the proposal network together; the candidates of all of them go through the other two
in common batches. Nothing is padded or mixed between photos, so a photo's faces do not depend on its companions.

`systems.detection` trains the networks; models of the store come by `pipeline.load_step(store, ref)`.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rayface.configuration import from_dict
from rayface.errors import RayfaceError
from rayface.imaging.boxes import shift, square, suppress
from rayface.imaging.pyramid import Pyramid
from rayface.networks.mtcnn import Mtcnn, MtcnnConfig, OutputNet, ProposalNet, RefinementNet
from rayface.networks.widths import apply_widths
from rayface.records import check_metadata
from rayface.release import WEIGHTS

RELEASES = WEIGHTS / "detection"  # a folder a version

CHUNK_PIXELS = 8_000_000  # photos in one pass of the proposal network: bounds memory
CHUNK_WINDOWS = 512  # candidates in one pass of the other networks
PROPOSAL_OVERLAP, REFINED_OVERLAP, FINAL_OVERLAP = 0.5, 0.7, 0.7
WINDOW = ProposalNet.window


@dataclass(frozen=True)
class DetectorConfig:
    """What is looked for, and how hard."""

    min_face: float = 24  # side of the smallest face in px (of the photo, or of the reduced copy if it is larger)
    max_side: int = 1280  # larger photos are searched in a copy reduced to this
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)  # least probability after each network
    pyramid_step: float = 0.709  # between sizes searched: halves the area
    max_candidates: int = 400  # a photo, from the proposal network; the best are kept

    def __post_init__(self) -> None:
        if self.min_face < WINDOW or not 0.3 < self.pyramid_step < 0.95 or self.max_side < 48:
            raise RayfaceError(
                f"detector: min_face {self.min_face} must be at least {WINDOW}, pyramid_step {self.pyramid_step} "
                f"between 0.3 and 0.95, max_side {self.max_side} at least 48."
            )


@dataclass
class Faces:
    """The faces of one photo, best first, on the CPU."""

    boxes: Tensor  # float32 [N, 4], x0 y0 x1 y1 in photo pixels; may reach beyond the photo
    landmarks: Tensor  # float32 [N, 5, 2], records.LANDMARKS order, photo pixels
    scores: Tensor  # float32 [N], probability

    def __len__(self) -> int:
        return len(self.scores)


def newest_release() -> Path:
    """The folder of the released detector that is used where nobody names one, as the store does: the newest."""
    numbers = (int(path.parent.name[1:]) for path in RELEASES.glob("r*/config.json") if path.parent.name[1:].isdigit())
    return RELEASES / f"r{max(numbers, default=1)}"


def load_detector(
    path: str | Path | None = None, device: str | torch.device = "cpu", config: DetectorConfig | None = None
) -> "Detector":
    """The detector of a model folder (`model.safetensors`, `config.json`); the newest released one by default.

    For code below the store, which must find faces before there is any model of one's own (ingest). Raises
    RayfaceError: no such folder, a hash or definitions that do not match.
    """
    from safetensors.torch import load

    folder = Path(path) if path is not None else newest_release()
    try:
        info = json.loads((folder / "config.json").read_text())
        data = (folder / "model.safetensors").read_bytes()
    except FileNotFoundError as error:
        raise RayfaceError(
            f"no detector in {folder} ({Path(error.filename).name} is missing); run from a checkout of rayface, or "
            "give a folder made by `rayface train detection`.",
            status=404,
            kind="unknown-model",
        ) from None
    if hashlib.sha256(data).hexdigest() != info["sha256"]:
        raise RayfaceError(f"{folder}: model.safetensors does not match its sha256; fetch it again.")
    check_metadata(info.get("schema"), str(folder))
    networks = Mtcnn(from_dict(MtcnnConfig, info["config"].get("mtcnn", {}), str(folder)))
    for name, widths in info["networks"].items():
        apply_widths(networks.get_submodule(name), widths)
    networks.load_state_dict({key: value.float() for key, value in load(data).items()})
    return Detector(networks, config, device, f"{info['name']}@{info['version']}", info)


class Detector:
    """The cascade. `model` is its name@version, `info` what its config.json says."""

    def __init__(
        self,
        networks: Mtcnn,
        config: DetectorConfig | None = None,
        device: str | torch.device = "cpu",
        model: str = "detection",
        info: Mapping[str, Any] | None = None,
    ) -> None:
        self.networks = networks.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
        self.config = config or DetectorConfig()
        self.device = torch.device(device)
        self.model = model
        self.info = dict(info or {})

    @torch.inference_mode()
    def detect(self, photos: Sequence[Tensor], pad: float = 0.0) -> list[Faces]:
        """The faces of each photo, uint8 [3, H, W].

        `pad`: how far, as a fraction of the photo's longer side, to extend each border first (by replication),
        for tight crops whose faces touch it. Raises RayfaceError for anything that is not such a photo.
        """
        for photo in photos:
            _check(photo)
        results: list[Faces | None] = [None] * len(photos)
        for chunk in _chunks(photos):
            stack = torch.stack([photos[index] for index in chunk]).to(self.device)
            margin = round(pad * max(stack.shape[-2:]))
            if margin:
                stack = _extend(stack, margin)
            for index, faces in zip(chunk, self._cascade(stack, margin), strict=True):
                results[index] = faces
        return [faces for faces in results if faces is not None]

    def _cascade(self, photos: Tensor, margin: int) -> list[Faces]:
        """All three networks on equally large photos, uint8 [B, 3, H, W]; coordinates lose `margin`."""
        config, networks = self.config, self.networks
        pyramid = Pyramid(photos, 2 * config.max_side)
        boxes, owner = self._propose(pyramid)
        boxes, owner, scores, _ = self._judge(networks.refinement, pyramid, boxes, owner, config.thresholds[1])
        kept = suppress(boxes, scores, owner, REFINED_OVERLAP)
        boxes, owner = boxes[kept], owner[kept]
        boxes, owner, scores, landmarks = self._judge(networks.output, pyramid, boxes, owner, config.thresholds[2])
        kept = suppress(boxes, scores, owner, FINAL_OVERLAP, of_smaller=True)
        boxes, owner, scores, landmarks = boxes[kept], owner[kept], scores[kept], landmarks[kept]
        # from the outer edge to the centre of the top left pixel
        boxes, landmarks = boxes.cpu() - margin - 0.5, landmarks.cpu() - margin - 0.5
        owner, scores = owner.cpu(), scores.cpu()
        every = [owner == index for index in range(len(pyramid))]
        return [Faces(boxes[own], landmarks[own], scores[own]) for own in every]

    def _propose(self, pyramid: Pyramid) -> tuple[Tensor, Tensor]:
        """Candidate boxes [K, 4] from the proposal network and the photos they are of [K]."""
        network, config = self.networks.proposal, self.config
        empty = torch.zeros(0, device=self.device)
        candidates = [(empty.reshape(0, 4), empty, empty.long())]
        for height, width in _sizes(pyramid.height, pyramid.width, config):
            logit, offsets = network(pyramid.resized(height, width))
            probability = logit.sigmoid()
            owner, y, x = (probability > config.thresholds[0]).nonzero(as_tuple=True)
            corner = torch.stack([x, y], 1) * network.stride
            boxes = torch.cat([corner, corner + network.window], 1) + network.window * offsets[owner, :, y, x]
            boxes = boxes * boxes.new_tensor([pyramid.width / width, pyramid.height / height] * 2)
            scores = probability[owner, y, x]
            kept = suppress(boxes, scores, owner, PROPOSAL_OVERLAP, config.max_candidates)
            candidates.append((boxes[kept], scores[kept], owner[kept]))
        boxes, scores, owner = (torch.cat(parts) for parts in zip(*candidates, strict=True))
        kept = suppress(boxes, scores, owner, REFINED_OVERLAP, config.max_candidates)
        return boxes[kept], owner[kept]

    def _judge(
        self, network: RefinementNet | OutputNet, pyramid: Pyramid, boxes: Tensor, owner: Tensor, threshold: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What a network keeps of candidate boxes: corrected boxes, owners, scores, landmarks [K, 5, 2]."""
        boxes = square(boxes)
        windows = pyramid.windows(boxes, owner, network.window)
        outputs = [network(part) for part in windows.split(CHUNK_WINDOWS)]
        logit, offsets, *points = (torch.cat(parts) for parts in zip(*outputs, strict=True))
        scores = logit.sigmoid()
        sure = scores > threshold
        corners, sides = boxes[sure, None, :2], (boxes[sure, 2:] - boxes[sure, :2])[:, None]
        shares = points[0][sure].reshape(-1, 2, 5).transpose(1, 2) if points else boxes.new_zeros(0, 5, 2)
        landmarks = corners + sides * shares if points else shares
        return shift(boxes[sure], offsets[sure]), owner[sure], scores[sure], landmarks


def _check(photo: Tensor) -> None:
    if photo.dtype != torch.uint8 or photo.dim() != 3 or photo.shape[0] != 3 or not photo.numel():
        raise RayfaceError(
            f"a photo must be uint8 [3, H, W], not {str(photo.dtype).removeprefix('torch.')} {list(photo.shape)}."
        )


def _extend(photos: Tensor, margin: int) -> Tensor:
    """Photos with `margin` more pixels on every side, copies of the border (torch pads no uint8)."""
    height, width = photos.shape[-2:]
    y = torch.arange(-margin, height + margin, device=photos.device).clamp(0, height - 1)
    x = torch.arange(-margin, width + margin, device=photos.device).clamp(0, width - 1)
    return photos[:, :, y[:, None], x]


def _chunks(photos: Sequence[Tensor]) -> Iterator[list[int]]:
    """Indices of equally large photos, at most CHUNK_PIXELS together (but at least one photo)."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, photo in enumerate(photos):
        groups.setdefault((photo.shape[1], photo.shape[2]), []).append(index)
    for (height, width), members in groups.items():
        step = max(1, CHUNK_PIXELS // (height * width))
        for first in range(0, len(members), step):
            yield members[first : first + step]


def _sizes(height: int, width: int, config: DetectorConfig) -> Iterator[tuple[int, int]]:
    """Heights and widths at which a 12-px window shows the faces from the smallest wanted to the photo's size."""
    scale = min(1.0, config.max_side / max(height, width)) * WINDOW / config.min_face
    while min(height, width) * scale >= WINDOW:
        yield math.ceil(height * scale), math.ceil(width * scale)
        scale *= config.pyramid_step

"""Face records out of photos: decode, check, find or take the landmarks, align, encode. One process, no Ray."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pyarrow import fs

from rayface import records
from rayface.data.sources import FORMATS, Item
from rayface.errors import RayfaceError
from rayface.imaging import codec
from rayface.imaging.align import similarity, transform_points, warp_crops, warp_masks

if TYPE_CHECKING:
    from rayface.detector import Detector

ALIGN = ("auto", "detect", "landmarks", "none")
# Formats of tight crops, whose faces fill the photo, and the smallest face to look for in them, in pixels: less
# work and fewer faces missed than with the detector's own (measured on celeba-mini and CelebAMask-HQ).
TIGHT_FORMATS = {"celeba": 48, "celebamask": 100}
# Borders added before detection, as shares of the longer side, one after the other until a face is found: tight
# crops cut off what the detector expects around a face.
TIGHT_PADS, PADS = (0.25, 0.4), (0.0, 0.25)
MIN_SIDE = 32  # smaller photos are thumbnails: nothing to learn from
SIZES = (32, 2048)
_BATCH_PHOTOS, _BATCH_PIXELS = 32, 24_000_000  # photos held at once: bounds memory where photos are large

Rejection = tuple[str, str, str]  # id, reason, detail
Record = dict[str, Any]


@dataclass(frozen=True)
class CropOptions:
    """How photos become records.

    align: "landmarks" takes the source's, "detect" the detector's, "auto" the source's where it has them,
    "none" takes photos for aligned already (to `records.FFHQ_TEMPLATE`, as FFHQ and CelebA-HQ roughly are).
    max_faces: of one photo, format "folder" only; other formats give one, the nearest the centre. min_face:
    shorter side of the smallest box of a detected face, in pixels of the photo.
    """

    format: str
    size: int = 256
    align: str = "auto"
    image_format: str = "jpeg"
    quality: int = 95
    max_faces: int = 16
    min_face: int = 40

    def __post_init__(self) -> None:
        _check(self.format in FORMATS, f"format {self.format!r} is unknown; choose one of {', '.join(FORMATS)}")
        _check(self.align in ALIGN, f"align {self.align!r} is unknown; choose one of {', '.join(ALIGN)}")
        _check(SIZES[0] <= self.size <= SIZES[1], f"size is {self.size}; choose {SIZES[0]} to {SIZES[1]} pixels")
        _check(self.image_format in ("jpeg", "png"), f"image format {self.image_format!r}; choose jpeg or png")
        _check(1 <= self.quality <= 100, f"quality is {self.quality}; choose 1 to 100")
        _check(self.max_faces >= 1, f"max_faces is {self.max_faces}; choose 1 or more")
        _check(self.min_face >= 1, f"min_face is {self.min_face}; choose 1 pixel or more")

    def detects(self, item: Item) -> bool:
        """Whether the landmarks of this photo's faces are the detector's own, not the source's."""
        return self.align == "detect" or (self.align == "auto" and item.landmarks is None)


@dataclass(frozen=True)
class _Photo:
    item: Item
    pixels: torch.Tensor  # uint8 [3, H, W]

    @property
    def side(self) -> int:
        return min(self.pixels.shape[-2:])


class CropMaker:
    """Makes records of photos; the detector is loaded when a photo first needs it."""

    def __init__(self, options: CropOptions, filesystem: fs.FileSystem) -> None:
        self.options = options
        self._filesystem = filesystem

    def records(self, items: Sequence[Item]) -> tuple[list[Record], list[Rejection]]:
        """The face records of `items`, in order, and what was left out and why; no photo raises."""
        made: list[Record] = []
        rejected: list[Rejection] = []
        for batch in self._photos(items, rejected):
            for photo, faces in zip(batch, self._landmarks(batch, rejected), strict=True):
                for face_id, landmarks in faces:
                    try:
                        made.append(self._record(photo, face_id, landmarks))
                    except RayfaceError as error:
                        rejected.append((face_id, error.kind, str(error)))
        return made, rejected

    def _photos(self, items: Sequence[Item], rejected: list[Rejection]) -> Iterator[list[_Photo]]:
        """Decoded photos, so many at once as memory bears."""
        batch: list[_Photo] = []
        for item in items:
            try:
                photo = _Photo(item, codec.decode(self._read(item.path, item.bytes)))
                if photo.side < MIN_SIDE:
                    height, width = photo.pixels.shape[-2:]
                    raise RayfaceError(f"{width} x {height} pixels, {MIN_SIDE} are needed", kind="too-small")
            except RayfaceError as error:
                rejected.append((item.id, error.kind, str(error)))
                continue
            batch.append(photo)
            if len(batch) == _BATCH_PHOTOS or sum(p.pixels[0].numel() for p in batch) > _BATCH_PIXELS:
                yield batch
                batch = []
        if batch:
            yield batch

    def _read(self, path: str, size: int = 0) -> bytes:
        limit = codec.Limits().max_bytes
        if size > limit:
            raise RayfaceError(f"the file has {size} bytes, allowed are {limit}", kind="image-too-large")
        try:
            with self._filesystem.open_input_stream(path) as stream:
                return stream.read()
        except OSError as error:
            raise RayfaceError(str(error), kind="unreadable") from error

    def _landmarks(
        self, photos: list[_Photo], rejected: list[Rejection]
    ) -> list[list[tuple[str, torch.Tensor | None]]]:
        """For each photo the faces to take: their ids and landmarks [5, 2]; None where there is nothing to align."""
        found: list[list[tuple[str, torch.Tensor | None]]] = [[] for _ in photos]
        unknown = []
        for index, photo in enumerate(photos):
            given = photo.item.landmarks
            points = torch.tensor(given, dtype=torch.float32).reshape(5, 2) if given is not None else None
            if self.options.detects(photo.item):
                unknown.append(index)
            elif self.options.align == "landmarks" and points is None:
                rejected.append((photo.item.id, "no-landmarks", "the source has no landmarks of this photo"))
            else:
                found[index] = [(photo.item.id, points)]
        for index, faces in zip(unknown, self._detect([photos[index].pixels for index in unknown]), strict=True):
            found[index] = list(self._choose(photos[index], faces, rejected))
        return found

    @functools.cached_property
    def detector(self) -> "Detector":
        """The newest released one."""
        from rayface.detector import DetectorConfig, load_detector

        # a little smaller than wanted: the detector's idea of a face's size is rough
        least = max(24.0, 0.75 * self.options.min_face, TIGHT_FORMATS.get(self.options.format, 0))
        return load_detector(config=DetectorConfig(min_face=least))

    def _detect(self, photos: list[torch.Tensor]) -> list[Any]:
        if not photos:
            return []
        first, again = TIGHT_PADS if self.options.format in TIGHT_FORMATS else PADS
        found = list(self.detector.detect(photos, pad=first))
        missed = [index for index, faces in enumerate(found) if not len(faces)]
        for index, faces in zip(missed, self.detector.detect([photos[i] for i in missed], pad=again), strict=True):
            found[index] = faces
        return found

    def _choose(
        self, photo: _Photo, faces: Any, rejected: list[Rejection]
    ) -> Iterator[tuple[str, torch.Tensor | None]]:
        """Which detected faces become records: of a folder's photo all, largest first, else the most central."""
        options, item = self.options, photo.item
        sides = (faces.boxes[:, 2:] - faces.boxes[:, :2]).amin(1)
        large = (sides >= options.min_face).nonzero()[:, 0]
        if not len(sides):
            rejected.append((item.id, "no-face", "no face was found"))
        elif not len(large):
            detail = f"the largest face has {sides.max():.0f} pixels, {options.min_face} are needed"
            rejected.append((item.id, "face-too-small", detail))
        elif options.format == "folder":
            large = large[sides[large].argsort(descending=True, stable=True)]
            for number, face in enumerate(large[: options.max_faces].tolist()):
                yield f"{item.id}#{number}", faces.landmarks[face]
            if len(large) > options.max_faces:
                detail = f"{len(large)} faces were found, {options.max_faces} were taken"
                rejected.append((item.id, "too-many-faces", detail))
        else:
            height, width = photo.pixels.shape[-2:]
            centres = (faces.boxes[large, :2] + faces.boxes[large, 2:]) / 2
            offset = centres - centres.new_tensor([(width - 1) / 2, (height - 1) / 2])
            yield item.id, faces.landmarks[large[offset.norm(dim=1).argmin()]]

    def _record(self, photo: _Photo, face_id: str, landmarks: torch.Tensor | None) -> Record:
        options, item, size = self.options, photo.item, self.options.size
        template = torch.from_numpy(records.FFHQ_TEMPLATE)
        if options.align == "none":
            matrices = _centre_square(photo.pixels, size)
        else:
            assert landmarks is not None
            try:
                matrices = similarity(landmarks[None], template, size)
            except RayfaceError as error:
                raise RayfaceError(str(error), kind="bad-landmarks") from error
        points = template * size if landmarks is None else transform_points(landmarks[None], matrices)[0]
        crop = warp_crops(photo.pixels, matrices, size)[0]
        mask = self._mask(photo, matrices) if item.masks else None
        return {
            "id": face_id,
            "source": options.format,
            "split": item.split,
            "identity": item.identity,
            "image": codec.encode(crop, "png" if options.image_format == "png" else "jpeg", options.quality),
            "size": size,
            "landmarks": points.reshape(-1).tolist(),
            "mask": codec.encode_mask(mask) if mask is not None else None,
            "attributes": list(item.attributes) if item.attributes is not None else None,
        }

    def _mask(self, photo: _Photo, matrices: torch.Tensor) -> torch.Tensor:
        """The photo's mask in the crop, uint8 [S, S]; the mask may be of another resolution than the photo."""
        mask = self._merged_mask(photo.item)
        (height, width), (mask_height, mask_width) = photo.pixels.shape[-2:], mask.shape
        if abs(mask_width / mask_height - width / height) > 0.01 * width / height:
            raise RayfaceError(
                f"the mask is {mask_width} x {mask_height}, the photo {width} x {height} pixels", kind="bad-mask"
            )
        scale = matrices.new_tensor([width / mask_width, height / mask_height])
        linear = matrices[:, :, :2] * scale
        shift = matrices[:, :, 2] + matrices[:, :, :2] @ (scale / 2 - 0.5)  # whole numbers are pixel centres
        return warp_masks(mask, torch.cat([linear, shift[:, :, None]], 2), self.options.size)[0]

    def _merged_mask(self, item: Item) -> torch.Tensor:
        """uint8 [H, W] of class ids."""
        merged: torch.Tensor | None = None
        for class_id, path in item.masks:
            data = self._read(path)
            if class_id is None:
                merged = codec.decode_mask(data)
                highest = int(merged.max())
                if highest >= len(records.PARSING_CLASSES):
                    raise RayfaceError(f"class id {highest} in the mask is unknown", kind="bad-mask")
                return merged
            part = codec.decode(data)[0] > 127  # the official part files are RGB pictures, black and white
            merged = torch.zeros_like(part, dtype=torch.uint8) if merged is None else merged
            if merged.shape != part.shape:
                raise RayfaceError("the part files of the mask differ in size", kind="bad-mask")
            merged[part] = class_id
        assert merged is not None
        return merged


def _centre_square(photo: torch.Tensor, size: int) -> torch.Tensor:
    """The matrix [1, 2, 3] that maps the largest centred square of `photo` to a crop."""
    height, width = photo.shape[-2:]
    side = min(height, width)
    scale = size / side
    corner = torch.tensor([(width - side) / 2, (height - side) / 2])
    shift = (0.5 - corner) * scale - 0.5
    return torch.cat([torch.eye(2) * scale, shift[:, None]], 1)[None]


def _check(good: bool, message: str) -> None:
    if not good:
        raise RayfaceError(f"ingest: {message}.")

"""Training windows for the detection cascade: what is cut from a face crop, and what it should be taken for.

As MTCNN is trained (K. Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional
Networks", IEEE Signal Processing Letters 2016, section II.C): square windows that overlap the face's box by more than
0.65 (intersection over union) show a face, those below 0.3 show none, those from 0.4 to 0.65 only teach where the
face lies. Every draw comes from the sample's own generator. Pixels are counted as everywhere: the centre of the top
left one is (0, 0).
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rayface.errors import RayfaceError
from rayface.imaging.align import invert, resample, scales, similarity, transform_points
from rayface.records import FFHQ_TEMPLATE, LANDMARK_FLIP

FACE, PART, NONE = (0.65, 1.0), (0.4, 0.65), (0.0, 0.3)  # least and largest overlap

# The released detector's boxes in the FFHQ frame of the labelled landmarks, in sides of the aligned crop. The middle
# moves against the nose as the head turns, which explains nine tenths of how it varies. Fitted on the training photos
# of celeba-mini by
# python -m benchmarks.detector_boxes --photos DIR --landmarks CSV --data DIR
BOX_WIDTH, BOX_HEIGHT, BOX_Y, TURN = 0.520, 0.707, 0.543, -1.533

# How far from the face's middle (in its box's sides) and how much larger or smaller than it (exponent of e) windows of
# each kind are tried; wide enough that all of a kind can come up.
NEAR_FACE, NEAR_PART, NEAR_NONE = (0.25, 0.35), (0.4, 0.5), (1.0, 0.9)
ANYWHERE_ZOOM = 1.0
TRIES = 64  # at a time


def face_boxes(landmarks: Tensor) -> Tensor:
    """Boxes float32 [N, 4] (x0 y0 x1 y1), as the released detector draws them, of landmarks [N, 5, 2]; same pixels."""
    frames = similarity(landmarks, FFHQ_TEMPLATE, 1)
    nose = transform_points(landmarks, frames)[:, 2, 0]
    middle = torch.stack([0.5 + TURN * (nose - 0.5), torch.full_like(nose, BOX_Y)], 1)
    middle = transform_points(middle[:, None], invert(frames))[:, 0]
    half = middle.new_tensor([BOX_WIDTH, BOX_HEIGHT]) / 2 / scales(frames)[:, None]
    return torch.cat([middle - half, middle + half], 1)


def place_faces(
    images: Tensor,
    landmarks: Tensor,
    sizes: tuple[float, float],
    turn: float,
    generators: Sequence[np.random.Generator],
) -> tuple[Tensor, Tensor]:
    """Each crop, uint8 [N, 3, S, S], and its landmarks [N, 5, 2] mirrored (half of them), turned, scaled and moved.

    `sizes`: least and largest scale; `turn`: standard deviation in degrees. A reduced crop lies anywhere inside the
    picture, whose rest repeats its border or (half of them) is a random texture: networks that see nothing but faces'
    surroundings come to find faces in plain walls. Of an enlarged crop any part is seen.
    """
    size = images.shape[-1]
    matrices = torch.stack([_placement(size, sizes, turn, random) for random in generators])
    seen = []
    for image, inverse, random in zip(images, invert(matrices), generators, strict=True):
        picture = resample(image, inverse, size, size, "bilinear")
        if random.random() < 0.5:
            picture = torch.where(_covered(inverse, size), picture, _texture(size, random))
        seen.append(picture)
    points = transform_points(landmarks, matrices)
    mirrored = torch.linalg.det(matrices[:, :, :2]) < 0
    points = torch.where(mirrored[:, None, None], points[:, LANDMARK_FLIP], points)
    return torch.stack(seen).round_().clamp_(0, 255).to(torch.uint8), points


def _placement(size: int, sizes: tuple[float, float], turn: float, random: np.random.Generator) -> Tensor:
    """Crop pixels -> picture pixels, float32 [2, 3]; a negative determinant mirrors."""
    mirror = -1.0 if random.random() < 0.5 else 1.0
    angle = math.radians(random.normal(0, turn))
    scale = math.exp(random.uniform(*np.log(sizes)))
    free = abs(1 - scale) * size / 2
    middle = (size - 1) / 2
    turned = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = turned @ np.diag([mirror, 1.0])
    shift = middle + random.uniform(-free, free, 2) - linear @ [middle, middle]
    return torch.from_numpy(np.concatenate([linear, shift[:, None]], 1)).float()


def _covered(inverse: Tensor, size: int) -> Tensor:
    """Which picture pixels show the crop: bool [S, S], of the map from picture to crop pixels [2, 3]."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    at = torch.stack([x, y], 2).float() @ inverse[:, :2].T + inverse[:, 2]
    return ((at >= -0.5) & (at <= size - 0.5)).all(2)


def _texture(size: int, random: np.random.Generator) -> Tensor:
    """A colour with noise of four grain sizes and random strengths, half of it grey: float [3, S, S], 0-255."""
    colour = random.uniform(0, 255) + random.normal(0, 30, (3, 1, 1))  # walls are mostly pale or dull
    picture = torch.from_numpy(colour).float().expand(3, size, size)
    for cells in (3, 10, 32, 100):
        channels = 1 if random.random() < 0.5 else 3
        noise = torch.from_numpy(random.normal(0, random.uniform(0, 40), (1, channels, cells, cells))).float()
        picture = picture + functional.interpolate(noise, (size, size), mode="bicubic")[0]
    return picture.clamp(0, 255)


def draw_windows(
    boxes: Tensor, size: int, counts: tuple[int, int, int], generators: Sequence[np.random.Generator]
) -> Tensor:
    """Windows float32 [N, sum(counts), 4] of pictures of `size` px with one face each, `boxes` [N, 4].

    First those that show the face, then those that show part of it, then those that show none: of these one half
    lies near the face (parts of it, or far more than it), the other anywhere. They may reach beyond the picture.

    Raises RayfaceError for a box that is none: no window would ever overlap it as wanted.
    """
    for box in boxes:
        if not (box.isfinite().all() and (box[2:] > box[:2]).all()):
            raise RayfaceError(
                f"the box {[round(value, 2) for value in box.tolist()]} (x0, y0, x1, y1) is no face's; look for "
                "landmarks in the data that are not numbers or lie in one point (`rayface data inspect DIR --grid PNG`)"
            )
    faces, parts, none = counts
    drawn = []
    for box, random in zip(boxes.double().numpy(), generators, strict=True):
        kinds = [
            _draw(faces, FACE, box, _around(box, NEAR_FACE[0]), NEAR_FACE[1], random),
            _draw(parts, PART, box, _around(box, NEAR_PART[0]), NEAR_PART[1], random),
            _draw(none // 2, NONE, box, _around(box, NEAR_NONE[0]), NEAR_NONE[1], random),
            _draw(none - none // 2, NONE, box, np.array([[0, 0], [size, size]]), ANYWHERE_ZOOM, random),
        ]
        drawn.append(np.concatenate(kinds))
    return torch.from_numpy(np.stack(drawn)).float()


def _around(box: np.ndarray, spread: float) -> np.ndarray:
    """The rectangle [2, 2] of points up to `spread` box sides from the box's middle."""
    middle, sides = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    return np.stack([middle - spread * sides, middle + spread * sides])


def _draw(
    count: int,
    wanted: tuple[float, float],
    box: np.ndarray,
    middles: np.ndarray,
    zoom: float,
    random: np.random.Generator,
) -> np.ndarray:
    """The first `count` squares whose overlap with `box` is as wanted, their middles uniform in a rectangle."""
    found = np.zeros((0, 4))
    side = math.sqrt((box[2:] - box[:2]).prod())
    while len(found) < count:
        at = random.uniform(middles[0], middles[1], (TRIES, 2))
        half = side / 2 * np.exp(random.uniform(-zoom, zoom, (TRIES, 1)))
        squares = np.concatenate([at - half, at + half], 1)
        share = overlaps(squares, box)
        found = np.concatenate([found, squares[(wanted[0] <= share) & (share < wanted[1])]])
    return found[:count]


def overlaps(windows: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Intersection over union of windows [K, 4] with one box [4]."""
    sides = np.minimum(windows[:, 2:], box[2:]) - np.maximum(windows[:, :2], box[:2])
    shared = sides.clip(0).prod(1)
    return shared / ((windows[:, 2:] - windows[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - shared)


def window_targets(windows: Tensor, boxes: Tensor, landmarks: Tensor) -> tuple[Tensor, Tensor]:
    """What the networks should say of windows [N, K, 4], given each picture's box [N, 4] and landmarks [N, 5, 2].

    Returns offsets [N, K, 4] of the box's four edges and landmarks [N, K, 10] (five x, then five y, from the window's
    top left corner), both in window sides, as `networks.mtcnn` gives them.
    """
    corners, sides = windows[:, :, :2], windows[:, :, 2:] - windows[:, :, :2]
    offsets = (boxes[:, None] - windows) / sides.repeat(1, 1, 2)
    points = (landmarks[:, None] - corners[:, :, None]) / sides[:, :, None]
    return offsets, points.transpose(2, 3).flatten(2)

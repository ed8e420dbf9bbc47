"""Head geometry: smooth curves, the head's surface, its pose and its place in the picture.

Head coordinates are in eye distances: the origin lies between the pupils, x to the right of the picture, y
down and z towards the camera.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np

Array = np.ndarray

HEAD_RADII = np.array([1.22, 1.85, 1.05])
HEAD_CENTRE = np.array([0.0, 0.12, 0.0])
CAMERA_DISTANCE = 9.0


@functools.cache
def _spline_basis(steps: int) -> Array:
    """Catmull-Rom weights of the four surrounding points, [steps, 4]."""
    t = np.arange(steps) / steps
    return 0.5 * np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2], 1)


def smooth(points: Array, steps: int = 5, closed: bool = True) -> Array:
    """A Catmull-Rom curve through `points` [n, d]: [n * steps, d] (open: [(n - 1) * steps + 1, d])."""
    points = np.asarray(points, np.float64)
    if closed:
        padded = np.concatenate([points[-1:], points, points[:2]])
    else:
        padded = np.concatenate([points[:1], points, points[-1:]])
    quads = np.stack([padded[i : len(padded) - 3 + i] for i in range(4)], 1)
    curve = np.matmul(_spline_basis(steps), quads).reshape(-1, points.shape[1])
    return curve if closed else np.concatenate([curve, points[-1:]])


def mirrored(half: Array) -> Array:
    """A closed outline from its right half, given from top to bottom: the left half is added, bottom to top."""
    half = np.asarray(half, np.float64)
    left = half[::-1] * np.array([-1, 1, 1][: half.shape[1]])
    return np.concatenate([half, left[np.abs(left[:, 0]) > 1e-6]])


def surface_depth(points: Array) -> Array:
    """z of the head's surface at `points` [n, 2 or 3] (x, y); flat outside it."""
    inside = 1 - ((points[:, 0]) / HEAD_RADII[0]) ** 2 - ((points[:, 1] - HEAD_CENTRE[1]) / HEAD_RADII[1]) ** 2
    return HEAD_RADII[2] * np.sqrt(np.maximum(inside, 0.03))


@dataclass(frozen=True)
class View:
    """How the head is turned (`rotation` [3, 3]) and placed: pixel = scale * head point + offset, as complex."""

    rotation: Array
    scale: complex = 1 + 0j
    offset: complex = 0j

    @classmethod
    def turned(cls, yaw: float, pitch: float, roll: float) -> "View":
        """A head turned by angles in radians: yaw to the right of the picture, pitch down, roll clockwise."""
        cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
        cr, sr = math.cos(roll), math.sin(roll)
        about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
        about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        return cls(about_z @ about_x @ about_y)

    @property
    def unit(self) -> float:
        """Eye distance in pixels, seen from the front."""
        return abs(self.scale)

    def project(self, points: Array) -> Array:
        """Head points [n, 3] -> pixels [n, 2]."""
        turned = (points - HEAD_CENTRE) @ self.rotation.T
        flat = turned[:, :2] * (CAMERA_DISTANCE / (CAMERA_DISTANCE - turned[:, 2:])) + HEAD_CENTRE[:2]
        a, b = self.scale.real, self.scale.imag
        return flat @ np.array([[a, b], [-b, a]]) + (self.offset.real, self.offset.imag)

    def on_face(self, points: Array, lift: float = 0.0) -> Array:
        """Points [n, 2] on the head's surface, `lift` above it -> pixels [n, 2]."""
        placed = np.empty((len(points), 3))
        placed[:, :2] = points
        placed[:, 2] = surface_depth(placed) + lift
        return self.project(placed)

    def at(self, x: float, y: float, lift: float = 0.0) -> Array:
        """One point on the surface -> pixel [2]."""
        cx, cy, _ = HEAD_CENTRE.tolist()  # the same in plain numbers: much quicker for one point
        rx, ry, rz = HEAD_RADII.tolist()
        z = rz * math.sqrt(max(1 - (x / rx) ** 2 - ((y - cy) / ry) ** 2, 0.03)) + lift
        tx, ty, tz = (a * (x - cx) + b * (y - cy) + c * z for a, b, c in self.rotation.tolist())
        near = CAMERA_DISTANCE / (CAMERA_DISTANCE - tz)
        placed = self.scale * complex(tx * near + cx, ty * near + cy) + self.offset
        return np.array([placed.real, placed.imag])

    def fitted(self, points: Array, pixels: Array) -> "View":
        """The same pose, placed so that head points [n, 3] come nearest to `pixels` [n, 2] (least squares)."""
        flat = View(self.rotation).project(points)
        source, target = flat[:, 0] + 1j * flat[:, 1], pixels[:, 0] + 1j * pixels[:, 1]
        centred = source - source.mean()
        scale = np.vdot(centred, target - target.mean()) / np.vdot(centred, centred)
        return View(self.rotation, complex(scale), complex(target.mean() - scale * source.mean()))

"""Degraded inputs for the training of face enhancement (SPEC C1), with coefficients that are data (C3).

The order is that of GFPGAN (Wang et al., "Towards Real-World Blind Face Restoration with Generative Facial
Prior", CVPR 2021, section 3.1): blur, down-sample, Gaussian noise, JPEG, resize back, colour jitter on the
degraded picture only. Each type has a range and a strength. A controller (C3) or a search (Tune) changes the
strengths and leaves the ranges alone: 0 switches the type off, 1 is the range as given, 2 is twice as far
from an untouched picture.
"""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from rayface.errors import RayfaceError
from rayface.randomness import generator

TYPES = ("blur", "downsample", "noise", "jpeg", "colour")
MAX_STRENGTH = 2.0
REFERENCE_SIZE = 512  # the ranges of lengths in pixels are for crops of this side
EVALUATION_SEED = 20211

Range = tuple[float, float]


@dataclass(frozen=True)
class DegradationConfig:
    """The ranges at a 512 px crop, which `degrade` scales to the real size, and a strength in [0, 2] per
    type.

    `blur_kernel` and `blur_sigma` are in pixels, `downsample` is a factor (below 1 enlarges), `noise` is a
    standard deviation and `colour_shift` a largest shift per channel, both as a fraction of the full range of
    255, `jpeg_quality` is Pillow's quality.

    Raises RayfaceError naming the field when a value cannot be used.
    """

    blur_kernel: float = 41.0
    blur_sigma: Range = (0.1, 10.0)
    anisotropic_probability: float = 0.5
    downsample: Range = (0.8, 8.0)
    noise: Range = (0.0, 20 / 255)
    jpeg_quality: Range = (60.0, 100.0)
    colour_probability: float = 0.3
    colour_shift: float = 20 / 255
    blur_strength: float = 1.0
    downsample_strength: float = 1.0
    noise_strength: float = 1.0
    jpeg_strength: float = 1.0
    colour_strength: float = 1.0

    def __post_init__(self) -> None:
        bounds: dict[str, Range] = {
            "blur_kernel": (1, 255), "blur_sigma": (0, 100), "anisotropic_probability": (0, 1),
            "downsample": (0.25, 64), "noise": (0, 1), "jpeg_quality": (1, 100),
            "colour_probability": (0, 1), "colour_shift": (0, 1),
        }  # fmt: skip
        bounds |= {f"{name}_strength": (0, MAX_STRENGTH) for name in TYPES}
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            ends = value if isinstance(value, tuple) else (value, value)
            if not low <= ends[0] <= ends[1] <= high:  # written so that NaN fails too
                raise RayfaceError(f"degradation: {name} is {value}, it must lie in [{low}, {high}], lower end first")

    @property
    def strengths(self) -> dict[str, float]:
        """Strength by type name, in the order of TYPES."""
        return {name: float(getattr(self, f"{name}_strength")) for name in TYPES}

    def with_strengths(self, strengths: Mapping[str, float] | float) -> "DegradationConfig":
        """The same ranges with new strengths: one for all types, or by type name (others keep theirs).

        Strengths are clamped to [0, 2], so that a controller may overshoot. Raises RayfaceError on an unknown
        type.
        """
        chosen = dict(strengths) if isinstance(strengths, Mapping) else dict.fromkeys(TYPES, strengths)
        unknown = sorted(set(chosen) - set(TYPES))
        if unknown:
            raise RayfaceError(f"degradation: unknown type {unknown[0]!r}; known: {', '.join(TYPES)}")
        changes = {f"{k}_strength": min(max(float(v), 0.0), MAX_STRENGTH) for k, v in chosen.items()}
        return replace(self, **changes)  # type: ignore[arg-type]


PRESETS: dict[str, DegradationConfig] = {
    "easy": DegradationConfig(
        blur_sigma=(0.1, 4.0), downsample=(0.8, 3.0), noise=(0.0, 8 / 255), jpeg_quality=(80.0, 100.0)
    ),
    "medium": DegradationConfig(),
    "hard": DegradationConfig(downsample=(4.0, 30.0), jpeg_quality=(30.0, 80.0)),  # CodeFormer's hard ranges
}


def preset(name: str) -> DegradationConfig:
    """The named preset. Raises RayfaceError on an unknown name."""
    if name not in PRESETS:
        raise RayfaceError(f"degradation: unknown preset {name!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name]


def severity_sets(
    indices: Iterable[int], seed: int = EVALUATION_SEED
) -> dict[str, tuple[DegradationConfig, list[np.random.Generator]]]:
    """The pinned degradations of an evaluation: preset name -> (config, one generator per sample index).

    They depend on the dataset index only, so that two models are judged on the very same inputs.
    """
    chosen = list(indices)
    return {
        name: (config, [generator(seed, 0, index, f"evaluation-{name}") for index in chosen])
        for name, config in PRESETS.items()
    }


@dataclass(frozen=True)
class _Draw:
    """One sample's coefficients, in pixels of the real crop size, strengths applied."""

    sigmas: Range
    angle: float
    factor: float
    noise: float
    quality: int | None
    shift: np.ndarray  # float32 [3], in units of the [0, 1] range
    noise_seed: int


def degrade(clear: Tensor, config: DegradationConfig, generators: Sequence[np.random.Generator]) -> Tensor:
    """Degraded versions of clear crops.

    Every draw comes from the sample's own generator and every sample is worked on alone, so the result does
    not depend on the batch it is in. A strength changes no draw, only what is made of it: with the same
    generator, a higher strength is the same degradation made harder. JPEG is Pillow's also on CUDA (each
    sample goes through the host for it, so that the same file format defects are seen everywhere); the rest
    runs where `clear` is.

    Args:
        clear: float32 [N, 3, S, S] in [-1, 1].
        generators: one per sample.

    Returns:
        float32 [N, 3, S, S] in [-1, 1], on the device of `clear`; equal to `clear` where every strength is 0.

    Raises RayfaceError when the shape is not [N, 3, S, S] or the number of generators is not N.
    """
    return degrade_measured(clear, config, generators)[0]


def degrade_measured(
    clear: Tensor, config: DegradationConfig, generators: Sequence[np.random.Generator]
) -> tuple[Tensor, Tensor]:
    """As `degrade`, and how far each of TYPES acted on each picture: float32 [N, 5] on the CPU.

    0 is an untouched picture, 1 the far end of the medium ranges.
    """
    if clear.ndim != 4 or clear.shape[1] != 3 or clear.shape[2] != clear.shape[3]:
        raise RayfaceError(f"degrade: crops must be [N, 3, S, S], got {list(clear.shape)}")
    if len(generators) != clear.shape[0]:
        raise RayfaceError(f"degrade: {len(generators)} generators for {len(clear)} samples; pass one per sample")
    if not any(config.strengths.values()) or not len(clear):
        return clear.clone(), torch.zeros(len(clear), len(TYPES))
    draws = [_draw(config, clear.shape[-1], rng) for rng in generators]
    with torch.no_grad():
        degraded = torch.stack([_degrade_one(x, config, draw) for x, draw in zip(clear, draws, strict=True)])
    return degraded, torch.stack([_severity(draw, clear.shape[-1]) for draw in draws])


def degrade_some(images: Tensor, share: float, generators: Sequence[np.random.Generator]) -> Tensor:
    """float32 [N, 3, S, S] in [-1, 1], of which each is degraded with probability `share`, the others kept; a copy.

    For networks that must read bad photos too; the medium ranges. Every draw comes from the sample's own generator.
    """
    images = images.clone()
    for index, random in enumerate(generators):
        if random.random() < share:
            images[index : index + 1] = degrade(images[index : index + 1], DegradationConfig(), [random])
    return images


def _degrade_one(clear: Tensor, config: DegradationConfig, draw: _Draw) -> Tensor:
    """[3, S, S] in [-1, 1] -> the same shape, degraded."""
    size = clear.shape[-1]
    x = clear.float() / 2 + 0.5
    if max(draw.sigmas) > 0:
        x = gaussian_blur(x, draw.sigmas, draw.angle, config.blur_kernel * size / REFERENCE_SIZE)
    small = max(round(size / draw.factor), 4)
    x = _resize(x, small)
    if draw.noise > 0:
        noise = np.random.Generator(np.random.SFC64(draw.noise_seed)).standard_normal(x.shape, np.float32)
        x = x + draw.noise * torch.from_numpy(noise).to(x.device)
    if draw.quality is not None:
        x = jpeg(x, draw.quality)
    x = _resize(x, size)
    if np.any(draw.shift):
        x = x + torch.from_numpy(draw.shift).to(x.device)[:, None, None]
    return (x.clamp(0, 1) * 2 - 1).to(clear.dtype)


def _draw(config: DegradationConfig, size: int, rng: np.random.Generator) -> _Draw:
    """All of a sample's coefficients, always in the same order and number whatever the config."""
    scale = size / REFERENCE_SIZE
    anisotropic = rng.random() < config.anisotropic_probability
    sigma_x, sigma_y = rng.uniform(*config.blur_sigma, size=2) * scale * config.blur_strength
    angle = rng.uniform(-math.pi, math.pi)
    # A factor of 8 at 512 px leaves 64 px of detail: so does a factor of 4 at 256 px. Below 1 nothing is lost
    # and nothing scales.
    low, high = (max(end * scale, min(end, 1.0)) for end in config.downsample)
    factor = 1 + (rng.uniform(low, high) - 1) * config.downsample_strength
    noise = rng.uniform(*config.noise) * config.noise_strength
    quality = 100 - (100 - rng.uniform(*config.jpeg_quality)) * config.jpeg_strength
    jitters = rng.random() < config.colour_probability
    shift = rng.uniform(-1, 1, 3) * config.colour_shift * config.colour_strength * jitters
    return _Draw(
        sigmas=(sigma_x, sigma_y if anisotropic else sigma_x),
        angle=angle,
        factor=max(factor, 0.25),
        noise=noise,
        quality=max(round(quality), 5) if config.jpeg_strength > 0 else None,
        shift=shift.astype(np.float32),
        noise_seed=int(rng.integers(2**63)),
    )


def _severity(draw: _Draw, size: int) -> Tensor:
    """float32 [5]: each type's coefficient as a share of the far end of its medium range."""
    medium, scale = PRESETS["medium"], size / REFERENCE_SIZE
    farthest = max(medium.downsample[1] * scale, 1.0)
    return torch.tensor(
        [
            sum(draw.sigmas) / 2 / (medium.blur_sigma[1] * scale),
            max(draw.factor - 1, 0.0) / max(farthest - 1, 1e-6) if farthest > 1 else 0.0,
            draw.noise / medium.noise[1],
            (100 - (100 if draw.quality is None else draw.quality)) / (100 - medium.jpeg_quality[0]),
            float(np.abs(draw.shift).max()) / medium.colour_shift,
        ]
    )


def gaussian_blur(x: Tensor, sigmas: Range, angle: float, kernel: float) -> Tensor:
    """Gaussian blur of one picture with standard deviations `sigmas` (pixels) along axes turned by `angle`
    (radians).

    The kernel is cut to `kernel` pixels (odd, rounded down) and to 3 sigmas; borders are mirrored. It works
    by FFT: an anisotropic kernel does not separate, and a direct convolution of 21 x 21 is several times
    slower on a CPU.

    Args:
        x: float [C, H, W].
    """
    radius = min(int(kernel - 1) // 2, math.ceil(3 * max(sigmas)), x.shape[-1] - 1, x.shape[-2] - 1)
    if radius < 1:
        return x
    padded = F.pad(x[None], (radius,) * 4, mode="reflect")[0]
    height, width = _fast_length(padded.shape[-2]), _fast_length(padded.shape[-1])
    weights = torch.zeros(height, width)
    side = 2 * radius + 1
    weights[:side, :side] = torch.from_numpy(_gaussian_kernel(radius, sigmas, angle))
    spectrum = torch.fft.rfft2(padded, s=(height, width)) * torch.fft.rfft2(weights.to(x.device))
    full = torch.fft.irfft2(spectrum, s=(height, width))
    return full[:, 2 * radius : 2 * radius + x.shape[-2], 2 * radius : 2 * radius + x.shape[-1]]


def _gaussian_kernel(radius: int, sigmas: Range, angle: float) -> np.ndarray:
    """float32 [2r+1, 2r+1], sums to 1."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float64)
    cos, sin = math.cos(angle), math.sin(angle)
    along, across = (x * cos + y * sin) / max(sigmas[0], 0.05), (y * cos - x * sin) / max(sigmas[1], 0.05)
    weights = np.exp(-0.5 * (along**2 + across**2))
    return (weights / weights.sum()).astype(np.float32)


def _fast_length(length: int) -> int:
    """The next length with only the factors 2, 3 and 5, which an FFT works through fastest."""
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1


def _resize(x: Tensor, size: int) -> Tensor:
    """[3, S, S] -> [3, size, size]; anti-aliased, as cameras, browsers and phones do it."""
    if x.shape[-1] == size:
        return x
    smaller = size < x.shape[-1]
    return F.interpolate(x[None], size=(size, size), mode="bilinear", antialias=smaller, align_corners=False)[0]


def jpeg(x: Tensor, quality: int) -> Tensor:
    """[3, S, S] in [0, 1], through a JPEG file of Pillow's `quality`."""
    pixels = x.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    decoded = np.array(Image.open(stream))
    return torch.from_numpy(decoded).to(x.device).permute(2, 0, 1).float() / 255

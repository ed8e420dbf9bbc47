"""Small inputs for the training of super-resolution: keyed down-sampling, clean or as photos come.

A share of the samples is reduced cleanly, with one of the anti-aliased kernels that cameras and programs use. The
others also get what photos have in mild form: a soft lens, sensor noise, JPEG at common qualities. That is the first
half of Real-ESRGAN's chain (Wang et al. 2021, section 3.1) with small coefficients: a network trained on hard ones
paints texture into photos that were fine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rayface.data.degradation import gaussian_blur, jpeg
from rayface.errors import RayfaceError

KERNELS = ("bicubic", "bilinear", "area")

Range = tuple[float, float]


@dataclass(frozen=True)
class ReductionConfig:
    """`kernels` are drawn from alike; `blur_sigma` is in pixels of the reduced picture, `noise` a standard deviation
    as a fraction of 255, `jpeg_quality` Pillow's; `clean` is the share of samples that are reduced and nothing else.

    Raises RayfaceError naming the field when a value cannot be used.
    """

    kernels: tuple[str, ...] = KERNELS
    clean: float = 0.4
    blur_sigma: Range = (0.0, 0.7)
    noise: Range = (0.0, 4 / 255)
    jpeg_probability: float = 0.7
    jpeg_quality: Range = (60.0, 98.0)

    def __post_init__(self) -> None:
        if not self.kernels or not set(self.kernels) <= set(KERNELS):
            raise RayfaceError(f"reduction: kernels is {self.kernels}; known: {', '.join(KERNELS)}")
        bounds: dict[str, Range] = {
            "clean": (0, 1), "blur_sigma": (0, 10), "noise": (0, 1), "jpeg_probability": (0, 1),
            "jpeg_quality": (1, 100),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            ends = value if isinstance(value, tuple) else (value, value)
            if not low <= ends[0] <= ends[1] <= high:  # written so that NaN fails too
                raise RayfaceError(f"reduction: {name} is {value}, it must lie in [{low}, {high}], lower end first")


# What a good photo and an ordinary one become; the pinned inputs of evaluation.
CLEAN = ReductionConfig(("bicubic",), clean=1.0)
MILD = ReductionConfig(
    ("bicubic",), clean=0.0, blur_sigma=(0.3, 0.5), noise=(1 / 255, 3 / 255), jpeg_quality=(80.0, 92.0)
)


def reduce(clear: Tensor, factor: int, config: ReductionConfig, generators: Sequence[np.random.Generator]) -> Tensor:
    """Pictures `factor` times smaller.

    Every draw comes from the sample's own generator, the same number of draws whatever is made of them.

    Args:
        clear: float32 [N, 3, H, W] in [-1, 1]; H and W divisible by `factor`.
        generators: one per sample.

    Returns:
        float32 [N, 3, H / factor, W / factor] in [-1, 1], in steps of 1/255 as pictures are stored.
    """
    height, width = clear.shape[-2:]
    if height % factor or width % factor:
        raise RayfaceError(f"reduce: {height} x {width} pictures cannot be made {factor} times smaller; crop them")
    samples = [_reduce_one(x, factor, config, random) for x, random in zip(clear, generators, strict=True)]
    return torch.stack(samples)


def _reduce_one(clear: Tensor, factor: int, config: ReductionConfig, random: np.random.Generator) -> Tensor:
    clean = random.random() < config.clean
    kernel = config.kernels[int(random.random() * len(config.kernels))]
    sigma, noise = random.uniform(*config.blur_sigma), random.uniform(*config.noise)
    compressed = random.random() < config.jpeg_probability
    quality, seed = random.uniform(*config.jpeg_quality), int(random.integers(2**63))
    x = clear.float() / 2 + 0.5
    if not clean and sigma > 0:
        wide = sigma * factor
        x = gaussian_blur(x, (wide, wide), 0.0, 6 * wide + 3)
    x = shrink(x[None], factor, kernel)[0]
    if not clean:
        drawn = np.random.Generator(np.random.SFC64(seed)).standard_normal(x.shape, np.float32)
        x = x + noise * torch.from_numpy(drawn).to(x.device)
        if compressed:
            x = jpeg(x, round(quality))
    return (x.clamp(0, 1) * 255).round() / 127.5 - 1


def shrink(images: Tensor, factor: int, kernel: str = "bicubic") -> Tensor:
    """float [N, C, H, W] reduced by a whole factor with an anti-aliased kernel, one of KERNELS."""
    if kernel == "area":
        return F.avg_pool2d(images, factor)
    size = (images.shape[-2] // factor, images.shape[-1] // factor)
    return F.interpolate(images, size, mode=kernel, antialias=True, align_corners=False)

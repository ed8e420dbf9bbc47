"""Small filters on tensors."""

import math

import torch
from torch import Tensor
from torch.nn import functional

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, for gamma-coded RGB


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """float [N, C, H, W] blurred by a Gaussian of `sigma` pixels (cut at three sigma), the border replicated.

    Exactly zero where everything within the kernel is zero. A sigma of 0 changes nothing.
    """
    if sigma <= 0:
        return images
    radius = max(1, math.ceil(3 * sigma))
    x = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    count, channels, height, width = images.shape
    flat = images.reshape(count * channels, 1, height, width)
    flat = functional.pad(flat, (radius, radius, radius, radius), mode="replicate")
    flat = functional.conv2d(flat, kernel.reshape(1, 1, 1, -1))
    return functional.conv2d(flat, kernel.reshape(1, 1, -1, 1)).reshape(count, channels, height, width)


def resize_images(images: Tensor, size: int) -> Tensor:
    """uint8 or float [N, C, H, W] to [N, C, size, size] of the same type (bfloat16: float32), bilinear, antialiased."""
    if images.shape[-2:] == (size, size):
        return images
    if images.dtype == torch.bfloat16:  # autocast's; the CPU has no such kernel
        images = images.float()
    return functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def luminance(images: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] -> float32 [N, H, W] in [0, 1]."""
    weights = torch.tensor(LUMINANCE, device=images.device) / 255
    return torch.einsum("nchw,c->nhw", images.float(), weights)


def grey(light: Tensor) -> Tensor:
    """float [N, 3, H, W], of any scale -> its luminance [N, 1, H, W] in that scale."""
    return (light * light.new_tensor(LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True)


def recolour(light: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """float [N, 3, H, W] in [0, 1], each by its own factors float [N, 1, 1, 1]; not clipped."""
    light = light * brightness
    mean = light.mean((1, 2, 3), keepdim=True)
    light = mean + (light - mean) * contrast
    colourless = grey(light)
    return colourless + (light - colourless) * saturation

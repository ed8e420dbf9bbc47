"""Copies of photos at halved sizes, from which windows of any size are read without aliasing."""

import torch
from torch import Tensor
from torch.nn import functional

LEAST_SIDE = 96  # no copy smaller than half of this


class Pyramid:
    """Equally large photos, uint8 [B, 3, H, W], and their reduced copies.

    Values are float32 in [-1, 1]. Coordinates given to its methods are in photo pixels measured from the outer
    edge of the top left pixel, so that they scale with the size.
    """

    def __init__(self, photos: Tensor, largest: int) -> None:
        """`largest`: copies with a longer side above this, in pixels, are not kept."""
        self.height, self.width = photos.shape[-2:]
        self.octaves: list[Tensor] = []
        self.first = 0  # how often the largest copy is halved
        while max(photos.shape[-2:]) > largest:
            photos = _half(photos)
            self.first += 1
        while True:
            self.octaves.append((photos.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last))
            if min(photos.shape[-2:]) < LEAST_SIDE:
                break
            photos = _half(photos)

    def __len__(self) -> int:
        return len(self.octaves[0])

    def resized(self, height: int, width: int) -> Tensor:
        """The photos as float32 [B, 3, height, width], low-passed where that is smaller."""
        large = [o for o in self.octaves if o.shape[-2] >= height and o.shape[-1] >= width]
        source = large[-1] if large else self.octaves[0]
        return functional.interpolate(source, (height, width), mode="bilinear", antialias=True)

    def windows(self, boxes: Tensor, owner: Tensor, side: int) -> Tensor:
        """Boxes [K, 4] of the photos numbered `owner` [K] as float32 [K, 3, side, side].

        Each is read from the copy in which it is nearest to `side` pixels large; beyond the photo its border is
        replicated.
        """
        windows = boxes.new_zeros((len(boxes), 3, side, side)).contiguous(memory_format=torch.channels_last)
        if not len(boxes):
            return windows
        sizes = (boxes[:, 2] - boxes[:, 0]).clamp(min=1)
        level = ((sizes / side).log2().round().long() - self.first).clamp(0, len(self.octaves) - 1)
        steps = (torch.arange(side, device=boxes.device) + 0.5) / side
        limits = boxes.new_tensor([self.width, self.height])
        at = (boxes[:, None, :2] + (boxes[:, 2:] - boxes[:, :2])[:, None] * steps[:, None]) / limits * 2 - 1
        keys = owner * len(self.octaves) + level
        for key in keys.unique().tolist():
            chosen = (keys == key).nonzero().flatten()
            photo, octave = divmod(key, len(self.octaves))
            x, y = at[chosen, :, 0], at[chosen, :, 1]
            grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), 3).reshape(1, -1, side, 2)
            source = self.octaves[octave][photo : photo + 1]
            seen = functional.grid_sample(source, grid, "bilinear", "border", align_corners=False)[0]
            windows[chosen] = seen.reshape(3, -1, side, side).transpose(0, 1)
        return windows


def _half(photos: Tensor) -> Tensor:
    half = [max(1, round(side / 2)) for side in photos.shape[-2:]]
    source = photos if photos.device.type == "cpu" else photos.float()  # the uint8 kernel exists on the CPU only
    return functional.interpolate(source, half, mode="bilinear", antialias=True).round().to(torch.uint8)

"""Whole photos through a network in parts: bounded memory, and no seams because there is nothing to blend.

A network whose output depends on its input only up to `reach` pixels away gives the same result for a window as for
the whole photo, but for `reach` pixels at the window's inner sides. Windows overlap by that much and only their
cores are kept, so the result is that of the whole photo at once.
"""

from collections.abc import Callable, Collection, Iterator

from torch import Tensor

from rayface.errors import RayfaceError

MAX_SIDE = 16_383  # WebP's largest; the other formats hold more


def run_tiled(photo: Tensor, function: Callable[[Tensor], Tensor], scale: int, tile: int, reach: int) -> Tensor:
    """`function` over a photo in windows.

    `photo`: [C, H, W]; `function`: a window [C, h, w] -> [C', scale * h, scale * w], of any dtype, looking no further
    than `reach` pixels; `tile`: side of the windows, more than twice `reach`. Windows are of one size (kernels are
    chosen once) and lie within the photo, so its own borders are seen as borders.
    Returns [C', scale * H, scale * W] on the device and of the dtype of the function's results.
    """
    height, width = photo.shape[-2:]
    result: Tensor | None = None
    for top, bottom, y in _windows(height, tile, reach):
        for left, right, x in _windows(width, tile, reach):
            made = function(photo[:, y : y + tile, x : x + tile])
            if result is None:
                result = made.new_empty((made.shape[0], height * scale, width * scale))
            core = made[:, (top - y) * scale : (bottom - y) * scale, (left - x) * scale : (right - x) * scale]
            result[:, top * scale : bottom * scale, left * scale : right * scale] = core
    assert result is not None
    return result


def _windows(length: int, tile: int, reach: int) -> Iterator[tuple[int, int, int]]:
    """(first, last + 1, window's start) of each core along one side; cores cover the side without overlap."""
    if tile <= 2 * reach:
        raise RayfaceError(f"tiles of {tile} px leave nothing of a network that looks {reach} px far; make them larger")
    start, core = 0, 0
    while core < length:
        last = start + tile >= length
        if last:
            start = max(0, length - tile)
        end = length if last else start + tile - reach
        yield core, end, start
        core, start = end, end - reach


def allowed_scale(height: int, width: int, wanted: int, scales: Collection[int], max_megapixels: float) -> int:
    """The largest of `scales` up to `wanted` whose result has at most `max_megapixels` and `MAX_SIDE`; 1 for none."""

    def fits(scale: int) -> bool:
        return height * width * scale**2 <= max_megapixels * 1e6 and max(height, width) * scale <= MAX_SIDE

    return max((scale for scale in scales if scale <= wanted and fits(scale)), default=1)

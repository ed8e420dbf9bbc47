"""Bytes to photos and back, with the checks that untrusted pictures need.

A photo is `uint8 [3, H, W]` (torch, RGB, sRGB). `decode` takes what cameras and browsers produce:
EXIF-rotated, CMYK, 16-bit, palette, grey, transparent and wide-gamut pictures all become plain sRGB; anything
else is refused with a `RayfaceError` whose `kind` says why.
"""

import io
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageCms, ImageFile, ImageOps, PngImagePlugin

from rayface.errors import RayfaceError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
PhotoFormat = Literal["png", "jpeg", "webp"]
# Each scan of a progressive JPEG goes over all of its pixels: 3000 of them, 0.2 MB, kept a core busy for 30 s. Encoders
# write about ten.
MAX_JPEG_SCANS = 64

_SRGB = ImageCms.createProfile("sRGB")


@dataclass(frozen=True)
class Limits:
    """What a picture may be at most: bytes as stored, pixels and pixels a side once decoded."""

    max_bytes: int = 32 * 1024 * 1024
    max_pixels: int = 50_000_000
    max_side: int = 16384


def decode(data: bytes, limits: Limits = Limits()) -> torch.Tensor:
    """The picture in `data` as uint8 [3, H, W], RGB in sRGB, upright.

    The first frame of animations and multi-page files is taken; transparency is composited on white.

    Raises RayfaceError with kind "empty-image" (status 400), "image-too-large" (413, judged by the header,
    before any pixel is decoded), "not-an-image" (415; only JPEG, PNG, WebP, BMP and TIFF are opened) or
    "corrupt-image" (422, truncated files included).
    """
    picture = _open(data, limits)
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise RayfaceError(
            f"The JPEG has more than {MAX_JPEG_SCANS} scans, as no camera or editor writes it; save it again or leave "
            "it out.",
            status=422,
            kind="corrupt-image",
        )
    try:
        picture.load()
        return _to_tensor(_to_srgb(_upright(picture)))
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise many types on broken bytes, struct.error among them
        raise RayfaceError(
            f"The {picture.format} picture is truncated or corrupt ({error}); save it again or leave it out.",
            status=422,
            kind="corrupt-image",
        ) from error


def encode(photo: torch.Tensor, format: PhotoFormat = "png", quality: int = 95, xmp: bytes = b"") -> bytes:
    """`photo`, uint8 [3, H, W], as a file without metadata but `xmp`, an XMP packet.

    `quality` (1-100) is for jpeg and webp; JPEG keeps full colour resolution (4:4:4) from 90 on.
    """
    picture = Image.fromarray(np.ascontiguousarray(photo.detach().cpu().permute(1, 2, 0).numpy()), "RGB")
    buffer = io.BytesIO()
    if format == "jpeg":
        picture.save(buffer, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2, xmp=xmp)
    elif format == "webp":
        picture.save(buffer, "WEBP", quality=quality, xmp=xmp)
    elif format == "png":
        text = PngImagePlugin.PngInfo()
        if xmp:
            text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        picture.save(buffer, "PNG", pnginfo=text)
    else:
        raise RayfaceError(f"Picture format {format!r} is unknown; choose png, jpeg or webp.", kind="bad-format")
    return buffer.getvalue()


def encode_mask(mask: torch.Tensor) -> bytes:
    """`mask`, uint8 [H, W], as an 8-bit PNG with the same numbers."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(mask.detach().cpu().numpy()), "L").save(buffer, "PNG")
    return buffer.getvalue()


def decode_mask(data: bytes, limits: Limits = Limits()) -> torch.Tensor:
    """The numbers of an 8-bit grey or palette picture as uint8 [H, W]; a palette's colours are ignored.

    Raises RayfaceError as `decode` does, and with kind "bad-mask" (422) for colour or 16 bits.
    """
    picture = _open(data, limits)
    if picture.mode not in ("L", "P", "1"):
        raise RayfaceError(
            f"A mask must be an 8-bit grey or palette picture, this one is {picture.mode}.",
            status=422,
            kind="bad-mask",
        )
    try:
        numbers = np.array(picture, np.uint8)
    except MemoryError:
        raise
    except Exception as error:
        raise RayfaceError(
            f"The mask is truncated or corrupt ({error}); save it again or leave it out.",
            status=422,
            kind="corrupt-image",
        ) from error
    return torch.from_numpy(numbers)


def to_float(photo: torch.Tensor) -> torch.Tensor:
    """uint8 0..255 to float32 -1..1, any shape."""
    return photo.to(torch.float32) / 127.5 - 1


def to_uint8(values: torch.Tensor) -> torch.Tensor:
    """float -1..1 to uint8 0..255, rounded and clipped, any shape; undoes `to_float` exactly."""
    return ((values.to(torch.float32) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _open(data: bytes, limits: Limits) -> ImageFile.ImageFile:
    """The picture with its header read and its dimensions checked; no pixel is decoded yet."""
    if not data:
        raise RayfaceError("The picture is empty (0 bytes); send the bytes of an image.", kind="empty-image")
    if len(data) > limits.max_bytes:
        raise _too_large(f"{len(data)} bytes", f"{limits.max_bytes} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own size warning, and notes on odd metadata
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large("far too many pixels", f"{limits.max_pixels} pixels") from error
    except Image.UnidentifiedImageError as error:
        raise RayfaceError(
            "This is not a picture rayface can open; send JPEG, PNG, WebP, BMP or TIFF.",
            status=415,
            kind="not-an-image",
        ) from error
    except Exception as error:
        raise RayfaceError(
            f"The picture's header is corrupt ({error}); save it again or leave it out.",
            status=422,
            kind="corrupt-image",
        ) from error
    width, height = picture.size
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        allowed = f"{limits.max_pixels} pixels and {limits.max_side} a side"
        raise _too_large(f"{width} x {height} pixels", allowed)
    return picture


def _too_large(found: str, allowed: str) -> RayfaceError:
    return RayfaceError(
        f"The picture is too large ({found}, allowed are {allowed}); scale it down.",
        status=413,
        kind="image-too-large",
    )


def _upright(picture: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says; broken EXIF data is no reason to refuse a photo."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:
        return picture


def _to_srgb(picture: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB in sRGB on white."""
    profile = picture.info.get("icc_profile")
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _to_8_bit(picture)
    elif picture.mode == "LAB":
        return _convert(picture, ImageCms.createProfile("LAB"))
    elif picture.mode in ("P", "PA", "1"):
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    elif picture.mode in ("L", "RGB") and picture.has_transparency_data:  # a PNG's single transparent colour
        picture = picture.convert("RGBA")
    if profile and picture.mode in ("L", "RGB", "RGBA", "CMYK"):
        picture = _apply_profile(picture, profile)
    if picture.mode in ("LA", "La", "RGBa"):
        picture = picture.convert("RGBA")
    if picture.mode == "RGBA":
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def _to_8_bit(picture: Image.Image) -> Image.Image:
    """16-bit grey scaled (65535 is white, not cut at 255); floats are taken as 0..1 when none is above 1."""
    values = np.nan_to_num(np.asarray(picture).astype(np.float32))
    scale = 1 / 257
    if picture.mode == "F":
        scale = 255 if values.max(initial=0) <= 1 else 1
    return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8), "L")


def _apply_profile(picture: Image.Image, profile: bytes) -> Image.Image:
    """Converted from its ICC profile to sRGB; a profile that is broken or does not fit is ignored."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if ImageCms.getProfileDescription(source).strip().lower().startswith("srgb"):
            return picture
        return _convert(picture, source)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return picture


def _convert(picture: Image.Image, source: ImageCms.ImageCmsProfile | ImageCms.core.CmsProfile) -> Image.Image:
    mode: Literal["RGB", "RGBA"] = "RGBA" if picture.mode == "RGBA" else "RGB"
    converted = ImageCms.profileToProfile(
        picture, source, _SRGB, renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode=mode
    )
    assert converted is not None  # only inPlace=True gives None
    return converted


def _to_tensor(picture: Image.Image) -> torch.Tensor:
    pixels = np.array(picture, np.uint8)  # a writable copy: torch must not share Pillow's read-only buffer
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()

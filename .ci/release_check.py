"""Is this checkout a release? `make release-check`.

Version and changelog agree, the wheel holds what it must and nothing more, and installed elsewhere, in an environment
of its own and without the checkout, it applies a step and serves a photo with its own weights. What others wrote
(torch, Ray) is taken from the environment that runs this, but with --full, which installs requirements.lock anew.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS_MIB = 48  # what the release weights may weigh (docs/models.md)
UP_SECONDS = 180
HELD = ("rayface/store.py", "serve/app.py", "serve/config.yaml", "tune/__main__.py", "cluster/train.py")
# From drawn faces to a signed result, by what is installed alone.
DRAW = "from rayface.data.synth import draw_scene as d; from rayface.imaging.codec import encode as e; "
DRAW += "open('photo.jpg', 'wb').write(e(d(7, 0, (240, 320), 1).photo, 'jpeg'))"


class NoRelease(Exception):
    """What stands against a release, in words."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="install everything anew, gigabytes")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        steps: Sequence[tuple[str, Callable[[], str]]] = (
            ("version and changelog", check_version),
            ("wheel", lambda: check_wheel(build_wheel(place / "dist"))),
            ("installed elsewhere", lambda: check_installed(place, options.full)),
        )
        for name, step in steps:
            try:
                print(f"ok    {name}: {step()}", flush=True)
            except NoRelease as error:
                failed += 1
                print(f"FAIL  {name}: {error}", flush=True)
    return 1 if failed else 0


def version() -> str:
    found = re.search(r'^__version__ = "([^"]+)"$', (ROOT / "rayface" / "__init__.py").read_text(), re.MULTILINE)
    assert found, "rayface/__init__.py names no version"
    return found[1]


def check_version(changelog: str = "") -> str:
    """The changelog has a dated part for the version, above all older ones, and nothing waits to be released."""
    text = changelog or (ROOT / "CHANGELOG.md").read_text()
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    heads = [part.splitlines()[0] for part in parts]
    if heads and heads[0] == "[Unreleased]" and parts[0].partition("\n")[2].strip():
        raise NoRelease(f"CHANGELOG.md has entries under [Unreleased]; move them below [{version()}] - the day")
    released = [head for head in heads if head != "[Unreleased]"]
    if not released or not re.fullmatch(rf"\[{re.escape(version())}\] - \d{{4}}-\d\d-\d\d", released[0]):
        raise NoRelease(
            f"CHANGELOG.md does not begin with [{version()}] - YYYY-MM-DD, the version of rayface/__init__.py"
        )
    return released[0]


def build_wheel(folder: Path) -> Path:
    _run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_wheel(wheel: Path) -> str:
    """Code and weights, each with its card, within the budget; no tests and no pictures."""
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    top = {name.partition("/")[0] for name in sizes}
    wanted = {"rayface", "serve", "tune", "cluster", f"rayface-{version()}.dist-info"}
    if top != wanted:
        raise NoRelease(f"it holds {', '.join(sorted(top))}; wanted are {', '.join(sorted(wanted))}")
    if missing := [name for name in HELD if name not in sizes]:
        raise NoRelease(f"it lacks {', '.join(missing)}")
    if pictures := [name for name in sizes if name.lower().endswith((".jpg", ".jpeg", ".png", ".webp"))]:
        raise NoRelease(f"it holds pictures: {', '.join(pictures)}")
    models = [name.removesuffix("model.safetensors") for name in sizes if name.endswith("/model.safetensors")]
    for model in models:
        if missing := [file for file in ("config.json", "README.md", "metrics.json") if model + file not in sizes]:
            raise NoRelease(f"{model} lacks {', '.join(missing)}")
    weights = sum(size for name, size in sizes.items() if name.endswith(".safetensors")) / 2**20
    if not models or weights > WEIGHTS_MIB:
        raise NoRelease(f"{len(models)} models with {weights:.1f} MiB of weights; wanted are some, of {WEIGHTS_MIB}")
    return f"{wheel.name}, {wheel.stat().st_size / 2**20:.1f} MiB, {len(models)} models with {weights:.1f} MiB"


def check_installed(place: Path, full: bool = False) -> str:
    """Installs the wheel of `place`/dist into an environment of its own, and uses it in an empty folder."""
    (wheel,) = (place / "dist").glob("*.whl")
    environment, empty = place / "environment", place / "empty"
    _run([sys.executable, "-m", "venv", "--without-pip", str(environment)], place)
    empty.mkdir()
    python = environment / "bin" / "python"
    installer = [shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv"), "pip", "install", "--python", str(python)]
    if not Path(installer[0]).exists():
        installer = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-input"]
    if full:
        _run([*installer, "--require-hashes", "-r", str(ROOT / "requirements.lock")], place)
    else:
        site = next((environment / "lib").glob("python*/site-packages"))
        (site / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    _run([*installer, "--no-deps", str(wheel)], place)
    where = _run([str(python), "-c", "import rayface, serve; print(rayface.__file__, serve.__file__)"], empty)
    if str(ROOT) in where or where.count(str(environment)) != 2:
        raise NoRelease(f"the packages come from {where}, not from the wheel")
    _run([str(python), "-c", DRAW], empty)
    rayface = str(environment / "bin" / "rayface")
    _run([rayface, "apply", "enhance", "photo.jpg", "enhanced.jpg"], empty)
    state = json.loads(_run([rayface, "credentials", "show", "enhanced.jpg"], empty))["state"]
    if state != "valid":
        raise NoRelease(f"the credentials of what `rayface apply` wrote are {state}")
    return f"`rayface apply` has valid credentials; {served(python, empty)}"


def served(python: Path, folder: Path) -> str:
    """Starts `python -m serve` there, sends it the photo, stops it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.monotonic()
    with (folder / "serve.log").open("w+") as log:
        command = [str(python), "-m", "serve", "--port", str(port)]
        process = subprocess.Popen(command, cwd=folder, env=_clean(), stdout=log, stderr=log, start_new_session=True)
        try:
            at = f"http://127.0.0.1:{port}"
            while not _healthy(at):
                if process.poll() is not None or time.monotonic() - began > UP_SECONDS:
                    log.seek(0)
                    raise NoRelease(f"python -m serve did not come up: {log.read()[-2000:]}")
                time.sleep(0.5)
            up = time.monotonic() - began
            headers = {"content-type": "image/jpeg"}
            asked = urllib.request.Request(f"{at}/v1/enhance", (folder / "photo.jpg").read_bytes(), headers)
            with urllib.request.urlopen(asked, timeout=60) as answer:
                summary = json.loads(answer.headers["x-rayface-summary"])
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
    if not summary["changed"]:
        raise NoRelease(f"the service changed no face: {summary}")
    return f"`python -m serve` was up after {up:.0f} s and changed {summary['changed']} face in {summary['ms']} ms"


def _healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/healthz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _clean() -> dict[str, str]:
    """The environment without what leads to the checkout."""
    dropped = ("PYTHONPATH", "VIRTUAL_ENV", "RAY_ADDRESS", "RAYFACE_STORE")
    return {key: value for key, value in os.environ.items() if key not in dropped}


def _run(command: Sequence[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=_clean(), capture_output=True, text=True)
    if done.returncode:
        raise NoRelease(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())

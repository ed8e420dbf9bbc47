"""`rayface data swaps`: what is written, its provenance and terms, and that a stopped run goes on."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rayface.data.dataset import FaceDataset
from rayface.errors import RayfaceError
from rayface.store import ModelStore
from rayface.swapping.methods import METHODS, Method, Pairs
from rayface.swapping.rows import Row
from rayface.swapping.run import Maker, SwapOptions, make_swaps
from tests.tiny_models import save_tiny_models

BLEND = SwapOptions(method="blend", chunk=40)


@pytest.fixture(scope="module")
def blends(drawn_faces: str, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> str:
    out = tmp_path_factory.mktemp("swaps") / "set"
    make_swaps(drawn_faces, out, BLEND, workers=2)
    return str(out)


@pytest.mark.ray
def test_swaps_and_real_photos_are_written_with_their_provenance(blends: str, drawn_faces: str) -> None:
    source, made = FaceDataset(drawn_faces), FaceDataset(blends)
    columns = made.batch(range(len(made)), ("split", "swap_method", "swap_texture", "swap_donor", "retouched_by"))
    split_of = dict(zip(source.ids, source.batch(range(len(source)), ("split",))["split"], strict=True))
    person_of = dict(zip(source.ids, source.identities, strict=True))
    swaps = 0
    for place, method in enumerate(columns["swap_method"]):
        texture, donor = columns["swap_texture"][place], columns["swap_donor"][place]
        assert columns["retouched_by"][place] is None
        if method is None:
            assert (texture, donor) == (None, None)
            assert columns["split"][place] == split_of[made.ids[place]]
            continue
        swaps += 1
        assert method == "blend"
        assert made.ids[place] == f"{texture}+{donor}"
        assert columns["split"][place] == split_of[texture] == split_of[donor]
        assert made.identities[place] == person_of[donor] != person_of[texture]
    assert swaps == len(made) - swaps == 60, "4 of the 64 are of a split with one person"
    assert not set(FaceDataset(blends, "train").people) & set(FaceDataset(blends, "validation").people)


@pytest.mark.ray
def test_the_manifest_says_what_it_is_made_of(blends: str, drawn_faces: str) -> None:
    manifest = FaceDataset(blends).manifest
    assert manifest["format"] == "swaps"
    assert manifest["swaps"] == {"method": "blend", "models": {}, "swapped": 60, "real": 60}
    assert manifest["terms"] == "photos: drawn faces, no photos"
    assert manifest["commercial_use"] is True
    assert manifest["options"]["source"] == FaceDataset(drawn_faces).digest


@pytest.mark.ray
def test_a_stopped_run_goes_on_and_another_one_is_refused(blends: str, drawn_faces: str) -> None:
    shard = Path(blends) / "shard-00001.parquet"
    whole = shard.read_bytes()
    others = {file.name: file.stat().st_mtime_ns for file in Path(blends).glob("shard-*") if file != shard}
    manifest = (Path(blends) / "dataset.json").read_text()
    shard.unlink()
    (Path(blends) / "dataset.json").unlink()
    (Path(blends) / ".tmp-left-behind").write_text("half a shard")
    told: list[str] = []
    make_swaps(drawn_faces, blends, BLEND, tell=told.append)
    assert told[0] == "2 of 3 shards are finished already"
    assert shard.read_bytes() == whole
    assert (Path(blends) / "dataset.json").read_text() == manifest
    assert {name: (Path(blends) / name).stat().st_mtime_ns for name in others} == others
    assert not list(Path(blends).glob(".tmp-*"))
    with pytest.raises(RayfaceError, match=r"seed \(0 then, 1 now\)"):
        make_swaps(drawn_faces, blends, SwapOptions(method="blend", chunk=40, seed=1))


def maker(source: str, options: SwapOptions, store: ModelStore, models: dict[str, str]) -> Maker:
    listed = {**vars(options), "retouch": list(options.retouch)}
    return Maker({"options": listed, "models": models, "source": source, "store": store.uri, "device": "cpu"})


def test_real_photos_are_encoded_as_swaps_are(drawn_faces: str, tmp_path: Path) -> None:
    made = maker(drawn_faces, SwapOptions(method="blend"), ModelStore(tmp_path), {})
    source = FaceDataset(drawn_faces)
    swap, real = made([Row(0, 5), Row(0)])
    for record in (swap, real):
        assert record["image"][:3] == b"\xff\xd8\xff"
        assert record["mask"] == source.records([0], ["mask"])[0]["mask"]
    assert real["id"] == source.ids[0]
    assert real["attributes"] is not None
    assert swap["attributes"] is None


def test_a_retouched_face_is_not_swapped_and_names_who_did_it(drawn_faces: str, tmp_path: Path) -> None:
    store = save_tiny_models(tmp_path, ("enhancement",))
    options = SwapOptions(method="blend", retouch=("enhance",))
    made = maker(drawn_faces, options, store, {"enhance": "enhancement@1"})
    retouched, real = made([Row(1, step="enhance"), Row(1)])
    assert retouched["id"] == f"{real['id']}~enhance"
    assert retouched["retouched_by"] == "enhancement@1"
    assert retouched["identity"] == real["identity"]
    assert retouched.get("swap_method") is None
    assert retouched["image"] != real["image"]


def test_any_callable_may_be_a_method(drawn_faces: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def paste(pairs: Pairs) -> Tensor:
        swapped = pairs.texture.clone()
        swapped[..., 20:50, 20:44] = pairs.donor[..., 20:50, 20:44]
        return swapped

    monkeypatch.setitem(METHODS, "paste", Method(lambda _: paste))
    made = maker(drawn_faces, SwapOptions(method="paste"), ModelStore(tmp_path), {})
    (record,) = made([Row(2, 9)])
    assert record["swap_method"] == "paste"


def test_a_step_is_given_donors_and_its_change_is_let_through_at_the_face(drawn_faces: str) -> None:
    """The interface of the system `face_swap`: donors in `params`, one for each crop."""
    from rayface.swapping.run import _opened

    class Step:
        size = 64

        def __call__(self, crops: Tensor, params: dict[str, list[Tensor]]) -> Tensor:
            return torch.stack([torch.from_numpy(donor) for donor in params["donor"]])

    held = FaceDataset(drawn_faces).records([0, 1], ("image", "landmarks", "mask"))
    crops, landmarks, masks = _opened(held)
    swapped = METHODS["face_swap"].make(Step())(Pairs(crops, crops.flip(0), landmarks, landmarks, masks, masks))
    assert torch.equal(swapped[..., 0, :], crops[..., 0, :]), "the border is the photo's own"
    assert torch.equal(swapped[:, :, 30:36, 30:34], crops.flip(0)[:, :, 30:36, 30:34])
    without = METHODS["face_swap"].make(Step())(Pairs(crops, crops.flip(0), landmarks, landmarks))
    assert torch.equal(without[:, :, 34:38, 30:34], crops.flip(0)[:, :, 34:38, 30:34])


def test_refusals(drawn_faces: str, tmp_path: Path) -> None:
    with pytest.raises(RayfaceError, match="method 'paint' is unknown; choose one of face_swap, blend"):
        SwapOptions(method="paint")
    with pytest.raises(RayfaceError, match="blend takes no model"):
        SwapOptions(method="blend", model="face_swap@1")
    with pytest.raises(RayfaceError, match="choose among enhance, beautify"):
        SwapOptions(method="blend", retouch=("upscale",))
    for wrong in ({"pairs": -1}, {"chunk": 0}, {"quality": 0}, {"retouch_share": 0.0}):
        with pytest.raises(RayfaceError, match="swaps: "):
            SwapOptions(method="blend", **wrong)  # type: ignore[arg-type]
    with pytest.raises(RayfaceError, match="no model 'nobody'"):
        make_swaps(drawn_faces, tmp_path, SwapOptions(model="nobody"), store=str(tmp_path))


@pytest.mark.ray
def test_the_command_writes_a_set(
    drawn_faces: str,
    tmp_path: Path,
    ray_cluster: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rayface.cli import main

    asked = ["data", "swaps", drawn_faces, str(tmp_path / "out"), "--method", "blend", "--pairs", "6"]
    monkeypatch.setattr("sys.argv", ["rayface", *asked])
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code
    summary = json.loads(capsys.readouterr().out)
    assert summary["swaps"]["swapped"] == summary["swaps"]["real"]
    assert 5 <= summary["swaps"]["swapped"] <= 7

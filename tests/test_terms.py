"""Terms: what is stated, what is inherited, and that one setting refuses what does not allow commercial use."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rayface.data.dataset import FaceDataset
from rayface.data.shards import write_manifest
from rayface.errors import RayfaceError
from rayface.store import ModelStore, open_store, release_store
from rayface.terms import ENVIRONMENT, commercial_only, commercial_use, dataset_terms, inherited
from rayface.training.local import train_here
from rayface.training.request import TrainRequest, resolve, training_split
from tests.tiny_models import save_tiny_models

CELEBA = {"terms": "CelebA: non-commercial research", "commercial_use": False}
MIT = {"terms": "MIT licence", "commercial_use": True}


def state(store: ModelStore, model: str, value: object) -> None:
    """Write `commercial_use` into a model's config.json, as its owner would."""
    path = Path(store.uri, model.replace("@", "/"), "config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "commercial_use": value}))


def tiny_store(folder: Path, **uses: object) -> ModelStore:
    """Tiny models that state the given `commercial_use`."""
    store = save_tiny_models(folder)
    for system, use in uses.items():
        state(store, f"{system}@1", use)
    return store


@pytest.mark.parametrize("value", [None, "yes", 1, "unstated"])
def test_what_is_neither_true_nor_false_is_unstated(value: object) -> None:
    assert commercial_use({"commercial_use": value}) == "unstated"
    assert commercial_use({"commercial_use": True}) is True
    assert commercial_use({"commercial_use": False}) is False


@pytest.mark.parametrize(
    ("sources", "use", "licence"),
    [
        ([MIT, MIT], True, "unstated"),
        ([MIT, CELEBA], False, "research-only"),
        ([{}, CELEBA], False, "research-only"),
        ([MIT, {}], "unstated", "unstated"),
    ],
)
def test_the_strictest_source_decides(sources: list[dict[str, Any]], use: object, licence: str) -> None:
    result = inherited({f"source {n}": source for n, source in enumerate(sources)})
    assert result["commercial_use"] == use
    assert type(result["commercial_use"]) is type(use)
    assert result["licence"] == licence
    for number, source in enumerate(sources):
        assert f"source {number}: {source.get('terms', 'terms not stated')}" in result["terms"]


@pytest.mark.parametrize(("value", "expected"), [("", False), ("0", False), ("no", False), ("1", True), ("True", True)])
def test_the_environment_says_yes_or_no(value: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, value)
    assert commercial_only() is expected
    monkeypatch.setenv(ENVIRONMENT, "perhaps")
    with pytest.raises(RayfaceError, match="RAYFACE_COMMERCIAL_ONLY='perhaps'"):
        commercial_only()


def test_data_sets_state_their_terms(tmp_path: Path, drawn_faces: str) -> None:
    assert dataset_terms(FaceDataset(drawn_faces).manifest)["commercial_use"] is True
    for format, given, use in (
        ("celeba", {}, False),
        ("folder", {}, "unstated"),
        ("folder", {"terms": "ours", "commercial_use": True}, True),
    ):
        manifest = write_manifest(str(tmp_path), format=format, size=64, terms=given)
        assert manifest["commercial_use"] == use
        assert manifest["terms"] == given.get("terms", dataset_terms({"format": format})["terms"])
    assert dataset_terms({"format": "celebamask"})["commercial_use"] is False, "data ingested before terms were written"


def test_terms_do_not_change_a_data_sets_digest(tmp_path: Path, drawn_faces: str) -> None:
    before = FaceDataset(drawn_faces).digest
    photos = shutil.copytree(drawn_faces, tmp_path / "photos")
    manifest = json.loads((photos / "dataset.json").read_text())
    (photos / "dataset.json").write_text(json.dumps({**manifest, **CELEBA}))
    assert FaceDataset(photos).digest == before
    (photos / "dataset.json").write_text(json.dumps({**manifest, "format": "folder"}))
    assert FaceDataset(photos).digest != before


def test_a_commercial_only_store_hands_out_what_states_it(tmp_path: Path) -> None:
    tiny_store(tmp_path, parsing=True, enhancement=False)
    store = ModelStore(tmp_path, commercial_only=True)
    assert store.load("parsing").ref == "parsing@1"
    for ref in ("enhancement", "enhancement@1", f"{tmp_path}/enhancement/1"):
        with pytest.raises(RayfaceError, match=r"enhancement@1 is refused.*false \(terms: Apache-2\.0\).*config\.json"):
            store.load(ref)
    assert store.info("enhancement")["name"] == "enhancement", "it can still be looked at"
    state(store, "enhancement@1", "unstated")
    with pytest.raises(RayfaceError, match="its commercial_use is unstated"):
        store.usable("enhancement")
    assert ModelStore(tmp_path).load("enhancement").ref == "enhancement@1"


def test_the_environment_rules_the_release_behind_a_store_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "1")
    store = open_store(tmp_path)
    with pytest.raises(RayfaceError, match=r"parsing@r\d+ is refused.*CelebAMask-HQ: non-commercial"):
        store.load("parsing")
    assert store.usable("detection")["commercial_use"] is True


def test_every_released_model_states_commercial_use() -> None:
    release = release_store()
    for name in release.names():
        for version in release.versions(name):
            info = release.info(f"{name}@{version}")
            assert isinstance(info["commercial_use"], bool), f"{name}@{version}"
            assert info["terms"], f"{name}@{version}"


def test_training_refuses_models_and_data_before_it_starts(tmp_path: Path, drawn_faces: str) -> None:
    store = tiny_store(tmp_path / "store", parsing=True, enhancement=False)

    def plan(system: str, **changes: Any) -> Any:
        preset = "" if "init" in changes else "tiny"
        values = {"preset": preset, "store": store.uri, "commercial_only": True, **changes}
        return resolve(TrainRequest((system,), drawn_faces, **values))

    with pytest.raises(RayfaceError, match="enhancement@1 is refused"):
        plan("enhancement", init="enhancement")
    with pytest.raises(RayfaceError, match="enhancement@1 is refused"):
        plan("enhancement", overrides=("teacher=enhancement",))
    accepted = plan("parsing", init="parsing")
    assert len(training_split(accepted, "parsing")) > 0
    photos = shutil.copytree(drawn_faces, tmp_path / "photos")
    manifest = json.loads((photos / "dataset.json").read_text())
    (photos / "dataset.json").write_text(json.dumps({**manifest, **CELEBA}))
    with pytest.raises(RayfaceError, match=r"data set .* is refused.*CelebA: non-commercial.*dataset\.json"):
        training_split(plan("parsing", data_of=(("parsing", str(photos)),)), "parsing")


def test_the_environment_reaches_the_workers_through_the_plan(
    drawn_faces: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not resolve(TrainRequest(("parsing",), drawn_faces, "tiny")).request.commercial_only
    monkeypatch.setenv(ENVIRONMENT, "1")
    assert resolve(TrainRequest(("parsing",), drawn_faces, "tiny")).request.commercial_only


def test_a_trained_model_inherits(tmp_path: Path, drawn_faces: str) -> None:
    store = tiny_store(tmp_path / "store", parsing=False, enhancement=True)

    def trained(system: str, name: str, **changes: Any) -> dict[str, Any]:
        values = {
            "preset": "" if "init" in changes else "tiny",
            "storage": str(tmp_path),
            "store": store.uri,
            "name": name,
            **changes,
        }
        short = ("steps=1", "global_batch=2", *changes.pop("overrides", ()))
        done = train_here(TrainRequest((system,), drawn_faces, **{**values, "overrides": short}))
        return store.info(done["models"][system])

    own = trained("parsing", "own")
    assert own["commercial_use"] is True
    assert own["terms"] == "data (synth): drawn faces, no photos"
    tuned = trained("parsing", "tuned", init="parsing@1")
    assert (tuned["commercial_use"], tuned["licence"]) == (False, "research-only")
    assert "init (parsing@1): Apache-2.0" in tuned["terms"]
    taught = trained("enhancement", "taught", overrides=("teacher=enhancement@1",))
    assert taught["commercial_use"] is True
    assert "teacher (enhancement@1)" in taught["terms"]
    begun = trained("attributes", "begun", overrides=("backbone=pretrained",))
    assert "backbone (pretrained:efficientnet_lite0): [Apache-2.0; trained on ImageNet]" in begun["terms"]
    random = trained("attributes", "random")
    assert "pretrained" not in random["terms"]


def test_a_chain_of_trainings_inherits_from_its_first_link(tmp_path: Path, drawn_faces: str) -> None:
    """Three trainings, each from the one before; what the first began as and saw rules the last."""
    store = tiny_store(tmp_path / "store", parsing=True)
    photos = shutil.copytree(drawn_faces, tmp_path / "photos")
    manifest = json.loads((photos / "dataset.json").read_text())
    (photos / "dataset.json").write_text(json.dumps({**manifest, **CELEBA}))
    names = {"storage": str(tmp_path), "store": store.uri, "overrides": ("steps=1", "global_batch=2")}
    infos = []
    for number, data in enumerate((str(photos), drawn_faces, drawn_faces), start=1):
        request = TrainRequest(("parsing",), data, name=f"link{number}", init=f"parsing@{number}", **names)  # type: ignore[arg-type]
        done = train_here(request)
        infos.append(store.info(done["models"]["parsing"]))
    assert [info["commercial_use"] for info in infos] == [False, False, False]
    assert [info["licence"] for info in infos] == ["research-only"] * 3
    drawn = "data (synth): drawn faces, no photos"
    first = f"data (synth): {CELEBA['terms']}; init (parsing@1): Apache-2.0"
    assert infos[0]["terms"] == first
    assert infos[1]["terms"] == f"{drawn}; init (parsing@2): [{first}]"
    assert infos[2]["terms"] == f"{drawn}; init (parsing@3): [{infos[1]['terms']}]"


def test_the_service_and_apply_refuse_at_their_start(tmp_path: Path) -> None:
    from rayface.apply import apply_steps
    from serve.app import compose, resolve_models
    from serve.settings import settings_from
    from tests.scenes import scene

    store = tiny_store(tmp_path / "store", parsing=True, enhancement=False)
    settings = settings_from({"store": store.uri, "commercial_only": True})
    with pytest.raises(RayfaceError, match="enhancement@1 is refused"):
        compose(settings)
    assert resolve_models(settings_from({"store": store.uri}))["enhance"] == "enhancement@1"
    from rayface.imaging.codec import encode

    (tmp_path / "a.png").write_bytes(encode(scene(0), "png"))
    with pytest.raises(RayfaceError, match="enhancement@1 is refused"):
        apply_steps(["enhance"], tmp_path / "a.png", tmp_path / "b.png", open_store(store.uri, commercial_only=True))
    assert not (tmp_path / "b.png").exists()


def test_terms_of_what_is_not_used_refuse_nothing(tmp_path: Path) -> None:
    """Steps on whole photos need no parser, so its terms do not matter."""
    from typer.testing import CliRunner

    from rayface.cli import app
    from rayface.imaging.codec import decode, encode
    from serve.app import compose, resolve_models
    from serve.settings import settings_from
    from tests.scenes import scene

    store = tiny_store(tmp_path / "store", parsing=False, super_resolution=True)
    (tmp_path / "a.png").write_bytes(encode(scene(0), "png"))
    arguments = [str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--store", store.uri, "--commercial-only"]
    done = CliRunner().invoke(app, ["apply", "upscale", *arguments])
    assert done.exit_code == 0, done.exception
    assert decode((tmp_path / "b.png").read_bytes()).shape == (3, 480, 640)
    refused = CliRunner().invoke(app, ["apply", "enhance,upscale", *arguments])
    assert "is refused" in str(refused.exception)
    settings = settings_from({"store": store.uri, "commercial_only": True, "steps": ["upscale"]})
    assert resolve_models(settings) == {"upscale": "super_resolution@1"}
    compose(settings)


def test_commercial_only_on_the_command_line(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from rayface.cli import app

    store = tiny_store(tmp_path / "store", parsing=True, enhancement=False)
    (tmp_path / "a.png").write_bytes(b"never read: the models are checked first")
    arguments = ["apply", "enhance", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--store", store.uri]
    refused = CliRunner().invoke(app, [*arguments, "--commercial-only"])
    assert isinstance(refused.exception, RayfaceError)
    assert "enhancement@1 is refused" in str(refused.exception)
    listed = CliRunner().invoke(app, ["models", "list", "--store", store.uri], env={"COLUMNS": "200"}).output
    assert "commercial use" in listed
    (row,) = [line for line in listed.splitlines() if "enhancement@1" in line]
    assert "false" in row

import json
import shutil
from pathlib import Path

import pytest
import torch

from rayface.errors import RayfaceError
from rayface.networks.widths import apply_widths, read_widths
from rayface.store import RELEASE_WEIGHTS, ModelStore, open_store, release_store
from rayface.systems.base import get_system


def saved(folder: Path, name: str = "parsing", seed: int = 0, **details: object) -> str:
    system = get_system("parsing")
    config = system.config("tiny")
    torch.manual_seed(seed)
    return ModelStore(folder).save(name, "parsing", config, system.build(config), details=details)


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    system = get_system("parsing")
    config = system.config("tiny")
    networks = system.build(config)
    ref = ModelStore(tmp_path).save("parsing", "parsing", config, networks, metrics={"f1": 0.5})
    loaded = ModelStore(tmp_path).load("parsing")
    assert ref == loaded.ref == "parsing@1"
    assert loaded.config == config
    assert loaded.info["sha256"]
    assert ModelStore(tmp_path).info(ref)["metrics"] == {"f1": 0.5}
    for name, value in networks["parser"].state_dict().items():
        assert torch.equal(value, loaded.networks["parser"].state_dict()[name])
    assert not any(p.requires_grad for p in loaded.networks["parser"].parameters())


def test_narrowed_widths_are_stored_and_made_again(tmp_path: Path) -> None:
    system = get_system("parsing")
    config = system.config("tiny")
    network = system.build(config)["parser"]
    widths = read_widths(network)
    block = "down_levels.0.0"
    widths[f"{block}.conv1"][1] = widths[f"{block}.conv2"][0] = 3
    widths[f"{block}.norm"] = [3]
    narrow = apply_widths(network, widths)
    ModelStore(tmp_path).save("narrow", "parsing", config, {"parser": narrow})
    loaded = ModelStore(tmp_path).load("narrow").networks["parser"]
    assert read_widths(loaded) == widths
    crops = torch.rand(1, 3, 64, 64)
    assert torch.equal(loaded(crops), narrow.eval()(crops))


def test_versions_promotion_and_folders(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    assert [saved(tmp_path, seed=seed) for seed in range(3)] == ["parsing@1", "parsing@2", "parsing@3"]
    assert store.load("parsing").version == "3"
    store.promote("parsing@1")
    assert store.load("parsing").version == "1"
    assert store.load("parsing@3").version == "3"
    assert ModelStore(tmp_path / "elsewhere").load(str(tmp_path / "parsing" / "2")).version == "2"


def test_the_same_result_of_the_same_run_is_saved_once(tmp_path: Path) -> None:
    assert saved(tmp_path, run="a") == "parsing@1"
    assert saved(tmp_path, run="a") == "parsing@1"
    assert saved(tmp_path, run="b") == "parsing@2"


def test_fallback_serves_what_is_not_here(tmp_path: Path) -> None:
    saved(tmp_path / "release")
    store = ModelStore(tmp_path / "own", fallback=ModelStore(tmp_path / "release"))
    assert store.names() == ["parsing"]
    assert store.info("parsing")["store"] == str(tmp_path / "release")
    with pytest.raises(RayfaceError, match="only this store's models"):
        store.promote("parsing")


def test_versions_of_the_release_are_nobody_elses(tmp_path: Path) -> None:
    release = ModelStore(tmp_path / "release", prefix="r")
    store = ModelStore(tmp_path / "own", fallback=release)
    system = get_system("parsing")
    config = system.config("tiny")
    for _ in range(10):  # r10 is newer than r9
        last = release.save("parsing", "parsing", config, system.build(config))
    assert last == "parsing@r10" == store.load("parsing").ref
    assert store.save("parsing", "parsing", config, system.build(config)) == "parsing@1" == store.load("parsing").ref
    assert store.info("parsing@r10")["store"] == release.uri
    assert store.info("parsing@1")["store"] == store.uri
    with pytest.raises(
        RayfaceError, match=r"'parsing@r11' in .*own; it holds parsing \(1\); behind it .*parsing \(r1, "
    ):
        store.load("parsing@r11")


def test_a_promoted_version_that_is_gone_is_named(tmp_path: Path) -> None:
    store = ModelStore(tmp_path, fallback=release_store())
    saved(tmp_path)
    saved(tmp_path, seed=1)
    store.promote("parsing@1")
    shutil.rmtree(tmp_path / "parsing" / "1")
    with pytest.raises(RayfaceError, match=r"names parsing@1, which is not there.*holds parsing 2: promote"):
        store.load("parsing")
    assert store.load("parsing@2").version == "2"


def test_an_import_made_again_with_other_terms_is_another_version(tmp_path: Path) -> None:
    assert saved(tmp_path, commercial_use=True) == "parsing@1"
    assert saved(tmp_path, commercial_use=False) == "parsing@2"
    assert ModelStore(tmp_path).info("parsing")["commercial_use"] is False


def test_unfinished_versions_do_not_exist(tmp_path: Path) -> None:
    saved(tmp_path)
    unfinished = tmp_path / "parsing" / "2"
    unfinished.mkdir()
    (unfinished / "model.safetensors").write_bytes(b"half")
    assert ModelStore(tmp_path).versions("parsing") == ["1"]


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    with pytest.raises(RayfaceError, match="it holds nothing"):
        store.load("parsing")
    saved(tmp_path)
    with pytest.raises(RayfaceError, match=r"no model 'parsing@9'.*parsing \(1\)"):
        store.load("parsing@9")
    with pytest.raises(RayfaceError, match=r"no config\.json"):
        store.load(f"{tmp_path}/parsing/7")

    config = tmp_path / "parsing" / "1" / "config.json"
    info = json.loads(config.read_text())
    other_order = json.dumps(["background", "skin", "l_brow"])
    config.write_text(json.dumps({**info, "schema": {**info["schema"], "rayface.parsing_classes": other_order}}))
    with pytest.raises(RayfaceError, match="parsing_classes"):
        store.load("parsing")
    config.write_text(json.dumps(info))
    weights = tmp_path / "parsing" / "1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(RayfaceError, match="does not match its sha256"):
        store.load("parsing")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RayfaceError, match="cannot be written"):
        saved(tmp_path / "file")


def test_release_weights_load_and_state_their_terms() -> None:
    release = release_store()
    assert "detection" in release.names()
    for name in release.names():
        info = release.info(name)
        assert info["licence"] not in ("", "unstated")
        assert len((RELEASE_WEIGHTS / name / info["version"] / "README.md").read_text()) > 300
        assert release.load(name).networks


def test_the_default_store_has_the_release_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYFACE_STORE", str(tmp_path))
    assert open_store().uri == str(tmp_path)
    assert "detection" in open_store().names()

"""References to pretrained networks: what they give, what pins them, what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rayface.errors import RayfaceError
from rayface.pretrained import is_pretrained, load_pretrained, pretrained_info


def test_the_installed_networks_are_loaded_frozen() -> None:
    picture = torch.zeros(1, 3, 128, 128)
    with torch.inference_mode():
        assert load_pretrained("pretrained:dlib")(picture).shape == (1, 128)
        assert len(load_pretrained("pretrained:efficientnet_lite0:3")(picture)) == 3
    assert not any(p.requires_grad for p in load_pretrained("pretrained:dlib").parameters())


def test_a_pinned_reference_takes_this_file_only() -> None:
    info = pretrained_info("pretrained:dlib")
    pinned = f"{info['name']}@{info['version']}"
    assert pretrained_info(pinned) == info
    assert info["system"] == "recognition"
    assert pretrained_info("pretrained:efficientnet_lite1:4")["name"] == "pretrained:efficientnet_lite1:4"
    with pytest.raises(RayfaceError, match="another file"):
        load_pretrained("pretrained:dlib@000000000000")


@pytest.mark.parametrize("ref", ["pretrained:", "pretrained:arcface", "pretrained:dlib:3", "pretrained:dlib@xyz"])
def test_unknown_references_name_the_known_ones(ref: str) -> None:
    assert is_pretrained(ref)
    with pytest.raises(RayfaceError, match=r"known: pretrained:dlib, pretrained:efficientnet_lite0"):
        pretrained_info(ref)


def test_references_of_the_store_are_not_pretrained() -> None:
    assert not any(map(is_pretrained, ("recognition", "recognition@2", "/models/recognition/1")))


def test_a_run_pins_and_loads_a_pretrained_teacher(drawn_faces: str, tmp_path: Path) -> None:
    """As with models of the store: pinned when the run is resolved, refused where it is of another kind."""
    from rayface.store import ModelStore
    from rayface.training.request import TrainRequest, load_frozen, resolve

    def config(*overrides: str) -> Any:
        request = TrainRequest(("enhancement",), drawn_faces, "tiny", storage=str(tmp_path), overrides=overrides)
        return resolve(request).config("enhancement")

    pinned = config("recognition=pretrained:dlib").recognition
    assert pinned == f"pretrained:dlib@{pretrained_info('pretrained:dlib')['version']}"
    network = load_frozen(ModelStore(tmp_path), {"recognition": pinned})["recognition"]
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 128)
    with pytest.raises(RayfaceError, match="teacher must be one of 'enhancement'"):
        config("teacher=pretrained:dlib")
    with pytest.raises(RayfaceError, match="no pretrained network"):
        config("recognition=pretrained:arcface")

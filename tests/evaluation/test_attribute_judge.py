"""The attribute judge: stored without its backbone, refused when anything about it differs."""

import json
from pathlib import Path

import pytest
import torch

from rayface.errors import RayfaceError
from rayface.evaluation.attribute_judge import NAME, WEIGHTS, load_attribute_judge, save_read_out, with_backbone


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A read-out fitted to noise: 12 pictures, half of them bright and labelled so."""
    folder = tmp_path_factory.mktemp("judge")
    classifier = with_backbone()
    with torch.inference_mode():
        classifier.fit_read_out(classifier.features(pictures())[None], labels())
    save_read_out(classifier, folder, {"seed": 1})
    return folder


def pictures() -> torch.Tensor:
    noise = torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.5 - 0.25
    return noise + torch.where(torch.arange(12) % 2 == 0, 0.5, -0.5)[:, None, None, None]


def labels() -> torch.Tensor:
    return torch.where(torch.arange(12) % 2 == 0, 1, -1)[:, None].expand(12, 40)


def test_it_comes_back_without_its_backbone_being_stored(stored: Path) -> None:
    judge = load_attribute_judge(stored)
    found = judge(pictures())
    assert found.shape == (12, 40)
    assert ((found >= 0.5) == (labels() > 0)).all()
    assert not any(parameter.requires_grad for parameter in judge.parameters())
    read_out = sum(p.numel() for name, p in judge.named_parameters() if "backbone" not in name)
    backbone = sum(p.numel() for name, p in judge.named_parameters() if "backbone" in name)
    size = (stored / f"{NAME}.safetensors").stat().st_size
    assert 2 * read_out < size < 2 * backbone


def copied(stored: Path, folder: Path, **changed: str) -> Path:
    info = json.loads((stored / f"{NAME}.json").read_text()) | changed
    (folder / f"{NAME}.json").write_text(json.dumps(info))
    (folder / f"{NAME}.safetensors").write_bytes((stored / f"{NAME}.safetensors").read_bytes())
    return folder


def test_other_backbones_and_changed_files_are_refused(stored: Path, tmp_path: Path) -> None:
    load_attribute_judge(copied(stored, tmp_path))
    with pytest.raises(RayfaceError, match="holds other weights"):
        load_attribute_judge(copied(stored, tmp_path, backbone_sha256="0"))
    with pytest.raises(RayfaceError, match="does not match its sha256"):
        load_attribute_judge(copied(stored, tmp_path, sha256="0"))
    with pytest.raises(RayfaceError, match="train_attribute_judge"):
        load_attribute_judge(tmp_path / "nowhere")


def test_the_released_judge_loads_and_was_measured() -> None:
    judge = load_attribute_judge()
    found = judge(torch.zeros(1, 3, 256, 256))
    assert found.shape == (1, 40)
    assert 0 <= found.min() <= found.max() <= 1
    info = json.loads((WEIGHTS / f"{NAME}.json").read_text())
    assert info["test"]["macro_auc"]["value"] > 0.85
    assert info["licence"] == "research-only"

"""Our reading of dlib's network file against dlib itself."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rayface.errors import RayfaceError
from rayface.pretrained.dlib_resnet import dlib_file, load_dlib_recogniser, read_layers


def chips() -> np.ndarray:
    """uint8 [6, 150, 150, 3]: drawn faces, noise and flat colours."""
    from rayface.data.synth import draw_face

    random = np.random.default_rng(0)
    drawn = [draw_face(3, index, 150).image.permute(1, 2, 0).numpy() for index in (0, 4)]
    noise = list(random.integers(0, 256, (2, 150, 150, 3), dtype=np.uint8))
    flat = [np.full((150, 150, 3), value, np.uint8) for value in (0, 255)]
    return np.ascontiguousarray(np.stack([*drawn, *noise, *flat]))


def test_embeddings_are_dlibs_own() -> None:
    dlib = pytest.importorskip("dlib", reason="dlib is not installed for this platform")
    theirs = dlib.face_recognition_model_v1(str(dlib_file()))
    expected = np.stack([np.array(theirs.compute_face_descriptor(chip)) for chip in chips()])
    pictures = torch.from_numpy(chips()).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        ours = load_dlib_recogniser().embed_chips(pictures).numpy()
    assert np.abs(ours - expected).max() < 1e-4
    assert np.abs(expected).max() > 0.1


def test_all_layers_are_read() -> None:
    layers = read_layers(dlib_file())
    names = [layer.name for layer in layers]
    # input; 29 convolutions, affines and ReLUs; 14 blocks' sums; one max and five mean poolings; the linear layer
    assert len(layers) == 1 + 3 * 29 + 14 + 1 + 5 + 1
    assert (names[0], names[1], names[-1]) == ("input_rgb_image_sized", "con_4", "fc_2")
    assert [names.count(name) for name in ("con_4", "affine_", "add_prev_")] == [29, 29, 14]
    folded = load_dlib_recogniser()
    affine = 2 * sum(m.out_channels for m in folded.modules() if isinstance(m, torch.nn.Conv2d))
    held = sum(part.numel() for layer in layers for part in layer.parts)
    assert held == affine + sum(p.numel() for p in folded.parameters())


@pytest.mark.parametrize("damage", ["shorter", "longer", "header", "count"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    data = bytearray(dlib_file().read_bytes())
    if damage == "shorter":
        del data[-1000:]
    elif damage == "longer":
        data += b"\x00"
    elif damage == "header":
        data[6] ^= 0x01
    else:
        place = bytes(data).find(b"con_4") + 9
        data[place] ^= 0x0F
    (tmp_path / "model.dat").write_bytes(data)
    with pytest.raises(RayfaceError, match=r"not dlib's face recognition network \(at byte \d+\)"):
        read_layers(tmp_path / "model.dat")

"""Weights of other projects into the store: small instances of their architectures, saved as those projects do."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from rayface.errors import RayfaceError
from rayface.evaluation.evaluate import evaluate
from rayface.exchange.imports import find_weights, import_model, read_weights
from rayface.pipeline import Pipeline
from rayface.store import ModelStore, open_store
from rayface.systems.base import get_system
from tests.scenes import scene
from tests.tiny_models import save_tiny_models

UNSTATED = {"licence": "unstated", "terms": "", "commercial_use": "unstated"}


class DenseBlock(nn.Module):
    """Real-ESRGAN's residual dense block, as in its paper and under its parameter names."""

    def __init__(self, width: int, growth: int = 32) -> None:
        super().__init__()
        for n in range(1, 6):
            outputs = width if n == 5 else growth
            setattr(self, f"conv{n}", nn.Conv2d(width + (n - 1) * growth, outputs, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for n in range(1, 5):
            features.append(F.leaky_relu(getattr(self, f"conv{n}")(torch.cat(features, 1)), 0.2))
        return x + 0.2 * self.conv5(torch.cat(features, 1))


class ResidualInResidual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (DenseBlock(width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class RealEsrgan(nn.Module):
    """The x4 network of Real-ESRGAN (realesrgan-x4plus has width 64 and 23 blocks), written from its paper."""

    def __init__(self, width: int = 8, blocks: int = 2) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*[ResidualInResidual(width) for _ in range(blocks)])
        for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
            setattr(self, name, nn.Conv2d(width, width, 3, padding=1))
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_first(x)
        x = x + self.conv_body(self.body(x))
        for up in (self.conv_up1, self.conv_up2):
            x = F.leaky_relu(up(F.interpolate(x, scale_factor=2, mode="nearest")), 0.2)
        return self.conv_last(F.leaky_relu(self.conv_hr(x), 0.2))


def compact(scale: int) -> nn.Module:
    from spandrel.architectures.Compact import Compact

    return Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=scale)


def restore_former() -> nn.Module:
    from spandrel.architectures.RestoreFormer import RestoreFormer

    return RestoreFormer(
        n_embed=32, embed_dim=32, ch=32, out_ch=3, ch_mult=(1, 1, 1, 1, 1, 1), num_res_blocks=1,
        attn_resolutions=(16,), dropout=0.0, in_channels=3, resolution=512, z_channels=32, double_z=False,
        enable_mid=True, head_size=8,
    )  # fmt: skip


def swin_ir() -> nn.Module:
    from spandrel.architectures.SwinIR import SwinIR

    return SwinIR(
        img_size=16, embed_dim=12, depths=[2], num_heads=[2], window_size=8, mlp_ratio=2.0, upscale=2,
        upsampler="pixelshuffle",
    )  # fmt: skip


# architecture -> (network, the wrapper its project saves it in, what spandrel finds, from [0, 1] to its own forward)
ARCHITECTURES: dict[str, tuple[Any, str, tuple[str, int, str], Any]] = {
    "realesrgan": (RealEsrgan, "params_ema", ("ESRGAN", 4, "upscale"), lambda net, x: net(x)),
    "compact": (lambda: compact(4), "params", ("Compact", 4, "upscale"), lambda net, x: net(x)),
    "denoiser": (lambda: compact(1), "", ("Compact", 1, "enhance"), lambda net, x: net(x)),
    "swinir": (swin_ir, "params", ("SwinIR", 2, "upscale"), lambda net, x: net(x)),
    "restoreformer": (
        restore_former,
        "state_dict",
        ("RestoreFormer", 1, "enhance"),
        lambda net, x: (net(x * 2 - 1)[0] + 1) / 2,
    ),
}


def made(name: str, folder: Path) -> tuple[nn.Module, Path]:
    """A small network of the architecture with random weights, and the .pth its project would publish."""
    make, wrapper, _, _ = ARCHITECTURES[name]
    torch.manual_seed(0)
    network = make().eval()
    state = network.state_dict()
    path = folder / f"{name}.pth"
    torch.save({wrapper: state} if wrapper else state, path)
    return network, path


def imported(name: str, folder: Path, **options: Any) -> tuple[nn.Module, Any]:
    network, path = made(name, folder)
    store = ModelStore(folder / "store")
    return network, store.load(import_model(path, name, store, **{"details": UNSTATED, "size": 64, **options}))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_imported_network_gives_what_its_own_code_gives(name: str, tmp_path: Path) -> None:
    own, loaded = imported(name, tmp_path)
    _, _, expected, run = ARCHITECTURES[name]
    assert (loaded.config.architecture, loaded.config.scale, loaded.config.step) == expected
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = run(own, pictures).clamp(0, 1)
        assert wanted.std() > 0.001, "a picture, or equality would say nothing"
        assert torch.equal(loaded.networks["model"](pictures), wanted)


def test_safetensors_come_in_as_they_are(tmp_path: Path) -> None:
    network, pth = made("compact", tmp_path)
    save_file(network.state_dict(), tmp_path / "compact.safetensors")
    assert find_weights(tmp_path).name == "compact.safetensors", "preferred to the .pth of the same name"
    store = ModelStore(tmp_path / "store")
    first = import_model(tmp_path / "compact.safetensors", "a", store, details=UNSTATED)
    second = import_model(pth, "b", store, details={**UNSTATED, "licence": "BSD-3-Clause", "commercial_use": True})
    assert store.info(first)["sha256"] == store.info(second)["sha256"], "the same tensors, whatever they came in"
    info = store.info(second)
    assert (info["system"], info["licence"], info["commercial_use"]) == ("foreign", "BSD-3-Clause", True)
    assert info["source"]["file"] == "compact.pth"
    assert info["source"]["sha256"] == hashlib.sha256(pth.read_bytes()).hexdigest()
    assert info["source"]["sha256"] in (tmp_path / "store" / "b" / "1" / "README.md").read_text()
    with pytest.raises(RayfaceError, match="a@1 is refused"):
        ModelStore(store.uri, commercial_only=True).load("a")
    assert ModelStore(store.uri, commercial_only=True).load("b").ref == "b@1"


class Sting:
    """What a malicious file holds: unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt"])
def test_a_file_that_could_run_code_is_refused_and_not_unpickled(suffix: str, tmp_path: Path) -> None:
    mark = tmp_path / "stung"
    path = tmp_path / f"model{suffix}"
    torch.save({"params": compact(2).state_dict(), "extra": Sting(mark)}, path)
    with pytest.raises(RayfaceError, match=r"is refused: it holds more than tensors.*safetensors"):
        read_weights(path)
    path.write_bytes(pickle.dumps({"params": Sting(mark)}))
    with pytest.raises(RayfaceError, match="is refused"):
        read_weights(path)
    assert not mark.exists()


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.jit.trace(nn.Conv2d(3, 3, 1), torch.rand(1, 3, 4, 4)).save(str(path))
    with pytest.raises(RayfaceError, match="is refused"):
        read_weights(path)


def test_what_cannot_be_imported_is_named(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")

    def said(source: Path, message: str, **options: Any) -> None:
        with pytest.raises(RayfaceError, match=message):
            import_model(source, **{"name": "x", "store": store, "details": UNSTATED, **options})

    said(tmp_path / "none.pth", "does not exist; give a file of weights")
    (tmp_path / "empty").mkdir()
    said(tmp_path / "empty", "it holds: none")
    (tmp_path / "notes.txt").write_text("no weights")
    said(tmp_path / "notes.txt", "weights come as .safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    said(tmp_path / "broken.safetensors", "cannot be read")
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    said(tmp_path / "numbers.pth", "holds no state dict")
    save_file({"strange.weight": torch.zeros(3)}, tmp_path / "strange.safetensors")
    said(tmp_path / "strange.safetensors", r"strange\.weight.*no architecture that spandrel .* knows")
    _, former = made("restoreformer", tmp_path)
    said(former, "--size 100: RestoreFormer takes crops of 128 px", size=100)
    said(former, "--as upscale: RestoreFormer does not enlarge", step="upscale", size=64)
    said(former, "--as 'parse': a foreign network can be enhance or upscale", step="parse")
    said(former, "--name '../x'", name="../x")
    grey = compact(2).state_dict()
    grey["body.0.weight"] = grey["body.0.weight"][:, :1].contiguous()
    save_file(grey, tmp_path / "grey.safetensors")
    said(tmp_path / "grey.safetensors", "RGB picture|no architecture")
    assert store.names() == []


def test_weights_that_give_no_numbers_are_refused(tmp_path: Path) -> None:
    network, _ = made("compact", tmp_path)
    state = network.state_dict()
    state["body.0.bias"] = state["body.0.bias"] * float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(RayfaceError, match="these weights are broken"):
        import_model(tmp_path / "nan.safetensors", "x", ModelStore(tmp_path / "store"), details=UNSTATED)


def test_a_missing_spandrel_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, loaded = imported("compact", tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "spandrel", None)
    with pytest.raises(RayfaceError, match=r"pip install 'rayface\[exchange\]'"):
        ModelStore(tmp_path / "store").load(loaded.ref)


def test_a_super_resolution_network_can_restore_face_crops(tmp_path: Path) -> None:
    own, loaded = imported("realesrgan", tmp_path, step="enhance", size=32)
    step = get_system("foreign").make_step(loaded)
    assert (step.name, step.size, step.model) == ("enhance", 32, "realesrgan@1")
    crops = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        large = own(crops.float() / 255).clamp(0, 1)
    wanted = F.interpolate(large, (32, 32), mode="bicubic", align_corners=False, antialias=True)
    assert torch.equal(step(crops, {}), (wanted * 255).round().clamp(0, 255).to(torch.uint8))


def test_an_imported_upscaler_is_judged_at_the_scales_that_the_photos_allow(tmp_path: Path, drawn_faces: str) -> None:
    """One of factor 4 can also make x3, which photos of 64 px cannot be reduced by."""
    _, loaded = imported("realesrgan", tmp_path)
    assert loaded.config.scale == 4
    report = evaluate("foreign", drawn_faces, open_store(tmp_path / "store"), loaded.ref, "validation", 2, judged=False)
    assert {name.partition("_")[0] for name in report["metrics"]} == {"x2", "x4"}


def test_a_face_restorer_takes_the_place_of_the_enhancer(tmp_path: Path) -> None:
    store = open_store(save_tiny_models(tmp_path / "store").uri)
    _, path = made("denoiser", tmp_path)
    ref = import_model(path, "denoiser", store, size=64, details=UNSTATED)
    chosen = Pipeline.from_store(store, ["enhance"], {"enhance": ref})
    result = chosen.process(scene(0), ["enhance"])
    assert result.report.models["enhance"] == "denoiser@1"
    assert not Pipeline.from_store(store, ["enhance"]).process(scene(0), ["enhance"]).photo.equal(result.photo)


def test_a_model_serves_the_step_it_offers_only(tmp_path: Path) -> None:
    store = open_store(save_tiny_models(tmp_path / "store").uri)
    _, path = made("compact", tmp_path)
    ref = import_model(path, "compact", store, details=UNSTATED)
    with pytest.raises(RayfaceError, match="compact@1 cannot be the model of 'enhance': it offers the step 'upscale'"):
        Pipeline.from_store(store, ["enhance"], {"enhance": ref})
    with pytest.raises(RayfaceError, match="'upscale' is not in use; in use are enhance, "):
        Pipeline.from_store(store, ["enhance"], {"upscale": ref})
    photo = scene(0)
    large = Pipeline.from_store(store, ["upscale"], {"upscale": ref}).process(photo, ["upscale"], {"scale": 2})
    assert large.report.models["upscale"] == "compact@1"
    assert large.photo.shape == (3, 2 * photo.shape[1], 2 * photo.shape[2])


def test_a_photo_is_upscaled_in_tiles(tmp_path: Path) -> None:
    own, loaded = imported("compact", tmp_path)
    step = get_system("foreign").make_step(loaded)
    assert (step.name, step.scales) == ("upscale", (2, 3, 4))
    photo = torch.randint(0, 256, (3, 150, 300), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        whole = own(photo[None].float() / 255).clamp(0, 1)
    large = step(photo, 4)
    assert large.shape == (3, 600, 1200)
    assert (large.int() - (whole[0] * 255).round().int()).abs().max() <= 1, "tiles overlap by more than it looks"
    half = F.interpolate(whole, (300, 600), mode="bicubic", align_corners=False, antialias=True)[0]
    # next to a tile's end the reduction sees less of its neighbours, but those pixels are cut away with the overlap
    assert (step(photo, 2).int() - (half * 255).round().clamp(0, 255).int()).abs().max() <= 1


def test_foreign_networks_are_not_trained(drawn_faces: str) -> None:
    from rayface.training.request import TrainRequest, resolve

    with pytest.raises(RayfaceError, match=r"imported \(`rayface models import`\), they cannot be trained"):
        resolve(TrainRequest(("foreign",), drawn_faces, "tiny"))


def test_import_on_the_command_line(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from rayface.cli import app

    _, path = made("denoiser", tmp_path)
    store = str(tmp_path / "store")
    options = ["--name", "clean", "--store", store, "--size", "64", "--licence", "MIT", "--commercial-use"]
    done = CliRunner().invoke(app, ["models", "import", str(path), *options])
    assert done.exit_code == 0, done.exception
    assert "--model enhance=clean@1" in " ".join(done.output.split())
    assert ModelStore(store, commercial_only=True).load("clean").info["licence"] == "MIT"


@pytest.mark.slow
def test_gfpgan_at_its_full_size(tmp_path: Path) -> None:
    """spandrel reads GFPGAN at its published size only (88 million parameters), so this one is not small."""
    from spandrel.architectures.GFPGAN import GFPGAN

    torch.manual_seed(0)
    own = GFPGAN().eval()
    torch.save({"params_ema": own.state_dict()}, tmp_path / "GFPGANv1.4.pth")
    store = ModelStore(tmp_path / "store")
    loaded = store.load(import_model(tmp_path / "GFPGANv1.4.pth", "gfpgan", store, details=UNSTATED))
    assert (loaded.config.architecture, loaded.config.step, loaded.config.size) == ("GFPGAN", "enhance", 512)
    picture = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)  # its decoder adds noise
    with torch.no_grad():
        wanted = own(picture)[0].clamp(0, 1)
    torch.manual_seed(2)
    assert torch.equal(loaded.networks["model"](picture), wanted)

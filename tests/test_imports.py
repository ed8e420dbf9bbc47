"""Imports point one way (docs/architecture.md), and what a command does not need it does not import."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Lowest first. A module may import lower layers and its own package, nothing else; the longest name decides.
# Ingest finds faces, so the detector, which needs no data set to run, lies below data. Measures know no system and
# no store: systems use them to evaluate themselves, `evaluation` runs systems.
LAYERS = (
    ("errors", "release"),
    ("records", "randomness", "configuration", "terms", "client", "certificates"),
    ("imaging", "work"),
    ("networks",),
    ("pretrained", "detector", "stages", "ray_session", "storage", "compression", "metrics"),
    ("data", "guard"),
    (
        "evaluation.attribute_editing",
        "evaluation.attribute_judge",
        "evaluation.attributes",
        "evaluation.beautification",
        "evaluation.face_swap",
        "evaluation.facial_hair",
        "evaluation.gallery",
        "evaluation.generation",
        "evaluation.limits",
        "evaluation.card",
        "evaluation.classical_beauty",
        "evaluation.classical_swap",
        "evaluation.detection",
        "evaluation.judge_weights",
        "evaluation.judges",
        "evaluation.metrics",
        "evaluation.parsing_judge",
        "evaluation.pictures",
        "evaluation.restoration",
        "evaluation.segmentation",
        "evaluation.skin_tone",
        "evaluation.subgroups",
        "evaluation.super_resolution",
        "evaluation.swap_detection",
        "evaluation.verification",
    ),
    ("systems",),
    ("store",),
    ("training", "evaluation", "pipeline", "exchange"),
    ("credentials",),
    ("apply", "labelling", "swapping", "comparison"),
    ("apply_pass",),
    ("cli",),
)
WITHOUT_RAY = ("errors", "records", "randomness", "configuration", "imaging", "networks", "pretrained", "compression")
ABOVE = ("tune", "serve", "cluster", "tests", "benchmarks")
HEAVY = {"torch", "torchvision", "kornia", "torchmetrics", "ray", "pyarrow", "matplotlib", "optuna"}

LAYER_OF = {prefix: layer for layer, prefixes in enumerate(LAYERS) for prefix in prefixes}


def imported(source: str) -> Iterator[str]:
    """Dotted names that a module imports when it runs, wherever the statement stands.

    `from a import b` gives `a.b` (b may be a module). What stands under `if TYPE_CHECKING:` never runs.
    """
    nodes: list[ast.AST] = [ast.parse(source)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            nodes.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        nodes.extend(ast.iter_child_nodes(node))


def prefix_of(name: str) -> str | None:
    """The entry of LAYERS that a name inside rayface belongs to ("data.shards.write" -> "data")."""
    parts = name.split(".")
    return next((p for n in range(len(parts), 0, -1) if (p := ".".join(parts[:n])) in LAYER_OF), None)


def wrong_imports(module: str, source: str) -> list[str]:
    """What `module` (a name inside rayface, for example "data.shards") imports and must not."""
    own = prefix_of(module)
    assert own is not None, f"rayface.{module} is in no layer: add it to LAYERS and to docs/architecture.md"
    wrong = []
    for name in imported(source):
        top, _, rest = name.partition(".")
        other = prefix_of(rest) if top == "rayface" else None
        if other is not None:
            same_package = other.split(".")[0] == own.split(".")[0]
            lower = LAYER_OF[other] < LAYER_OF[own]
            if not lower and not (same_package and LAYER_OF[other] == LAYER_OF[own]):
                wrong.append(name)
        if top in ABOVE or (top == "ray" and own in WITHOUT_RAY):
            wrong.append(name)
    return wrong


def modules() -> dict[str, Path]:
    """Name inside rayface -> file, packages' __init__ left out (they are empty, or they export their own)."""
    package = ROOT / "rayface"
    files = (file for file in package.rglob("*.py") if file.name != "__init__.py")
    return {".".join(file.relative_to(package).with_suffix("").parts): file for file in sorted(files)}


@pytest.mark.parametrize("name", modules())
def test_imports_point_one_way(name: str) -> None:
    assert wrong_imports(name, modules()[name].read_text()) == []


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("imaging.align", "from rayface.ray_session import connect", ["rayface.ray_session.connect"]),
        ("data.crops", "from rayface.systems.base import System", ["rayface.systems.base.System"]),
        ("imaging.align", "def f():\n    import ray.data", ["ray.data"]),
        ("networks.parser", "from rayface.systems import base", ["rayface.systems.base"]),
        ("data.shards", "from rayface.store import ModelStore", ["rayface.store.ModelStore"]),
        ("evaluation.metrics", "from rayface.systems.base import System", ["rayface.systems.base.System"]),
        ("training.loop", "from rayface.pipeline import Pipeline", ["rayface.pipeline.Pipeline"]),
        ("pipeline", "import serve.app", ["serve.app"]),
        ("systems.parsing", "import ray\nfrom rayface.data.dataset import FaceDataset", []),
        ("systems.base", "if TYPE_CHECKING:\n    from rayface.store import LoadedModel", []),
        ("cli", "from ray import serve", []),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str, wrong: list[str]) -> None:
    assert wrong_imports(module, source) == wrong


@pytest.mark.parametrize("module", ["rayface", "rayface.errors", "rayface.client", "rayface.cli"])
def test_light_modules_import_nothing_heavy(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert HEAVY & set(json.loads(done.stdout)) == set()

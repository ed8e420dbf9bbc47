"""cluster/ray-cluster.yaml as `ray up` reads it; no machine is started."""

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "cluster" / "ray-cluster.yaml"


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return content


def test_ray_accepts_it_and_no_key_is_unknown(config: dict[str, Any]) -> None:
    import ray.autoscaler
    from ray.autoscaler._private.util import validate_config

    defaults = yaml.safe_load((Path(ray.autoscaler.__file__).parent / "aws" / "defaults.yaml").read_text())
    assert set(config) <= set(defaults)
    validate_config({**defaults, **config})  # as `ray up` completes it


def test_gpus_come_on_spot_prices_when_asked_for_and_the_head_does_no_work(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    workers = {name: made for name, made in types.items() if name != config["head_node_type"]}
    assert types[config["head_node_type"]]["resources"]["CPU"] == 0
    assert all(made["min_workers"] == 0 and made["max_workers"] <= config["max_workers"] for made in workers.values())
    assert any(made["node_config"].get("InstanceMarketOptions") == {"MarketType": "spot"} for made in workers.values())


def test_what_it_copies_and_runs_exists(config: dict[str, Any]) -> None:
    (mounted,) = config["file_mounts"].items()
    folder, source = mounted
    assert (ROOT / source).resolve() == ROOT, "from the checkout"
    setup = " ".join(config["setup_commands"])
    assert f"cd {folder} && .ci/bootstrap.sh" in setup
    assert (ROOT / ".ci" / "bootstrap.sh").exists()
    assert f"{folder}/.venv/bin" in setup
    assert "RAY_HEAD_IP" in " ".join(config["worker_start_ray_commands"])

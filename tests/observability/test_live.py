"""A real Prometheus reads a real cluster, on which the service works on photos and a network is trained."""

import math
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from rayface.store import ModelStore
from serve.proxy import free_ports
from tests.observability.files import DASHBOARDS, FOLDER, alerts, names, queries, tool
from tests.serve.listening import start_serve
from tests.serve.logs import folder, logged
from tests.tiny_models import save_tiny_models

pytestmark = pytest.mark.ray
GPU = "ray_node_gpus_utilization"  # Ray tells it where there are GPUs
SECONDS = 180.0  # until something shows that takes a few, on a machine with other work


@dataclass
class Running:
    client: httpx.Client
    store: ModelStore


@pytest.fixture(scope="module")
def service(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """With a line in its logs for every request and every call of a stage."""
    from ray import serve

    from serve.app import build

    store = save_tiny_models(tmp_path_factory.mktemp("store"))
    url = start_serve()
    args = {
        "store": store.uri, "steps": ["enhance", "upscale"], "log_level": "INFO", "max_faces": 1,
        **{stage: {"max_batch": 4, "batch_wait_s": 0.05} for stage in ("detector", "step", "parser", "guard")},
    }  # fmt: skip
    serve.run(build(args), name="rayface", route_prefix="/")
    with httpx.Client(base_url=url, timeout=60) as client:
        yield Running(client, store)
    serve.shutdown()


class Prometheus:
    """A server of its own with the configuration of k8s/observability, quicker, for the nodes of this cluster."""

    def __init__(self, folder: Path, targets: list[str]) -> None:
        (folder / "nodes.json").write_text(f'[{{"labels": {{"job": "ray"}}, "targets": {targets}}}]'.replace("'", '"'))
        text = (FOLDER / "prometheus.yml").read_text()
        text = text.replace("/tmp/ray/prom_metrics_service_discovery.json", str(folder / "nodes.json"))
        text = text.replace("interval: 15s", "interval: 1s").replace("rules.yml", str(FOLDER / "rules.yml"))
        (folder / "prometheus.yml").write_text(text)
        (port,) = free_ports(1)
        self.began = time.time()
        self.process = subprocess.Popen(
            [
                tool("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
            ]
        )  # fmt: skip
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1")

    def get(self, path: str, **params: Any) -> Any:
        answer = self.client.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def ready(self) -> bool:
        try:
            answer = self.client.get("/targets")
        except httpx.TransportError:
            assert self.process.poll() is None, "Prometheus has ended"
            return False
        # 503 while it reads what it kept
        return answer.is_success and any(one["health"] == "up" for one in answer.json()["data"]["activeTargets"])

    def values(self, query: str) -> list[float]:
        """What a panel with this query has to draw, over the whole life of this server."""
        result = self.get("/query_range", query=query, start=self.began, end=time.time(), step=1)["result"]
        found = [float(value) for series in result for _, value in series["values"]]
        return [value for value in found if math.isfinite(value)]

    def total(self, metric: str) -> float:
        result = self.get("/query", query=f"sum({metric})")["result"]
        return float(result[0]["value"][1]) if result else 0.0

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait()


@pytest.fixture
def prometheus(service: Running, tmp_path: Path) -> Iterator[Prometheus]:
    import ray

    nodes = [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in ray.nodes() if node["Alive"]]
    server = Prometheus(tmp_path, nodes)
    try:
        until(server.ready, "Prometheus reads the cluster")
        yield server
    finally:
        server.stop()


def until(met: Any, what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not met():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def start_training(data: str, storage: Path) -> Any:
    """A training of a minute at most, with adaptive degradation, in a process of the cluster."""
    import ray

    from rayface.training.request import TrainRequest

    def train(request: TrainRequest) -> None:
        from rayface.training.local import train_here

        train_here(request)

    overrides = ("steps=40", "checkpoint_every=20", "adaptation.every=4", "adaptation.margin=1e-6")
    request = TrainRequest(
        ("enhancement",), data, preset="tiny", storage=str(storage), name="watched", overrides=overrides
    )
    return ray.remote(num_cpus=1, max_retries=0)(train).remote(request)


def test_dashboards_show_real_load(
    service: Running, prometheus: Prometheus, drawn_faces: str, face_png: bytes, tmp_path: Path
) -> None:
    import ray

    photos = 'ray_rayface_photos_total{way="process", result="done"}'
    before, sent = prometheus.total(photos), 0

    def send() -> None:
        nonlocal sent
        path = "/v1/process?steps=upscale,enhance&format=png" if sent % 2 else "/v1/enhance?format=png"
        assert service.client.post(path, content=face_png).status_code == 200
        sent += 1

    training = start_training(drawn_faces, tmp_path / "runs")
    send()
    until(lambda: prometheus.total(photos) > before, "a first photo is counted")
    assert service.client.post("/v1/enhance", content=b"no photo").status_code == 415
    wanted = [(name, *query) for name in DASHBOARDS for query in queries(name, "20s") if GPU not in query[1]]
    deadline = time.monotonic() + SECONDS
    while missing := [panel for panel in wanted if not prometheus.values(panel[2])]:
        assert time.monotonic() < deadline, f"no data: {missing}"
        send()
        time.sleep(0.5)
    ray.get(training)

    until(lambda: prometheus.total(photos) - before == sent, f"{sent} photos are counted, and no others")
    by_title = {title: query for title, query in queries("serving", "20s")}
    for title in (
        "Photos a second",
        "Faces a second",
        "Faces found and changed",
        "Seconds a photo",
        "Photos in a batch",
    ):
        assert max(prometheus.values(by_title[title])) > 0, title
    assert max(prometheus.values(dict(queries("training", "20s"))["Done"])) <= 1
    known = set(prometheus.get("/label/__name__/values"))
    asked = set().union(*(names(query) for _, _, query in wanted), *(names(alert["expr"]) for alert in alerts()))
    assert {name for name in asked - known if not name.startswith("ray_rayface_")} == set(), "Ray tells no such figure"
    assert {rule["health"] for group in prometheus.get("/rules")["groups"] for rule in group["rules"]} == {"ok"}
    versions = prometheus.get("/query", query="max by (stage, model, version) (ray_rayface_model_share) == 1")["result"]
    told = {(one["metric"]["stage"], one["metric"]["model"], one["metric"]["version"]) for one in versions}
    assert {("enhance", "enhancement", "1"), ("detect", "detection", "r1")} <= told


def test_every_line_about_a_request_has_its_id(service: Running, face_png: bytes) -> None:
    client = service.client

    def enhance(identifier: str, photo: bytes = face_png, **headers: str) -> httpx.Response:
        return client.post("/v1/enhance", content=photo, headers={"x-request-id": identifier, **headers})

    assert enhance("mine-1").status_code == 200
    assert enhance("broken-1", face_png[:900]).status_code == 422
    (made,) = set(enhance("no id {at all}").headers.get_list("x-request-id")) - {"no id {at all}"}
    job = enhance("job-1", prefer="respond-async").headers["location"]
    until(lambda: client.get(job).json()["status"] == "done", "the job is done")
    until(lambda: "job-1" in logged("rayface", "fuse: 1 photo").get("stages", ()), "the job's lines")
    for stage in ("detect", "enhance", "identify", "parse", "fuse"):
        ids = logged("rayface", f" -- {stage}: ")["stages"]
        assert {"mine-1", made, "job-1"} <= ids, stage
        assert "" not in ids, "a line about photos without an id"
        assert "broken-1" not in ids, "a photo that was no photo"
    ingress = logged("rayface", "/v1/enhance 200")["ingress"] | logged("rayface", "/v1/enhance 202")["ingress"]
    assert {"mine-1", "job-1"} <= ingress
    assert "broken-1" in logged("rayface", "/v1/enhance 422")["ingress"]
    text = "".join(file.read_text(errors="replace") for file in folder().glob("replica_rayface_*.log"))
    assert "127.0.0.1:" not in text, "a client's address"
    assert job.rpartition("/")[2] not in text, "who reads a job's name may fetch its photo"

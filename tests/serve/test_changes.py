"""A running service is changed and damaged under load, and loses nothing that it accepted."""

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from rayface.imaging.codec import encode
from tests.scenes import scene
from tests.serve.listening import start_serve
from tests.tiny_models import save_tiny_models

pytestmark = [pytest.mark.ray, pytest.mark.slow]
CLIENTS = 4
ARGS = {"steps": ["enhance"], "identity_guard": "off"}


@dataclass
class Load:
    """What clients that post again and again were answered, in order."""

    statuses: Counter[int] = field(default_factory=Counter)
    models: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)

    def post(self, client: httpx.Client, photo: bytes) -> None:
        asked = time.monotonic()
        try:
            answer = client.post("/v1/enhance?format=png", content=photo, headers={"content-type": "image/png"})
        except httpx.HTTPError as error:
            self.odd.append(f"no answer after {time.monotonic() - asked:.1f} s: {error!r}")
            return
        self.statuses[answer.status_code] += 1
        if answer.status_code == 200:
            self.read_report(client, answer.headers["x-request-id"])
        elif answer.status_code != 503:
            self.odd.append(answer.text)

    def read_report(self, client: httpx.Client, identifier: str) -> None:
        answer = client.get(f"/v1/reports/{identifier}")
        if answer.status_code == 200:
            self.models.append(answer.json()["models"]["enhance"])
        elif answer.status_code not in (404, 503):  # other settings: the process that held it was replaced
            self.odd.append(answer.text)


@contextmanager
def load(url: str) -> Iterator[Load]:
    done, told, photo = threading.Event(), Load(), encode(scene(0), "png")

    def come_again() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not done.is_set():
                told.post(client, photo)

    clients = [threading.Thread(target=come_again) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield told
    finally:
        done.set()
        for client in clients:
            client.join()


@dataclass
class Running:
    url: str
    store: str
    layout: str

    @property
    def killed(self) -> tuple[str, ...]:
        """Deployments whose replicas are killed, one after the other."""
        return ("enhancer", "parser", "detector") if self.layout == "separate" else ("stages",) * 3

    @property
    def enhancer(self) -> str:
        """The deployment with the enhancer in it."""
        return "enhancer" if self.layout == "separate" else "stages"

    @property
    def busiest(self) -> str:
        """The one with most to do: all networks but the released detector are tiny."""
        return self.killed[-1]

    @property
    def use(self) -> str:
        """What its user_config calls the enhancer's model."""
        return "model" if self.layout == "separate" else "enhance"


def deploy(service: Running, model: str, autoscaling: dict[str, Any] | None = None, **args: Any) -> None:
    """What `serve deploy` does with a config file in which the enhancer has this user_config, and the busiest
    deployment `autoscaling`.
    """
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    deployments: dict[str, dict[str, Any]] = {service.enhancer: {"user_config": {service.use: model}}}
    if autoscaling:
        deployments.setdefault(service.busiest, {})["autoscaling_config"] = autoscaling
    config = {
        "applications": [
            {
                "name": "rayface",
                "route_prefix": "/",
                "import_path": "serve.app:build",
                "args": {"layout": service.layout, "store": service.store, **ARGS, **args},
                "deployments": [{"name": name, **options} for name, options in deployments.items()],
            }
        ]
    }
    _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config), _blocking=False)


@pytest.fixture(scope="module", params=["together", "separate"])
def service(
    request: pytest.FixtureRequest, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    from ray import serve

    store = save_tiny_models(tmp_path_factory.mktemp("store"), ("enhancement", "parsing"))
    save_tiny_models(Path(store.uri), ("enhancement",))
    running = Running(start_serve(), store.uri, request.param)
    deploy(running, "enhancement@1")
    until(lambda: serve.status().applications["rayface"].status == "RUNNING")
    yield running
    serve.shutdown()


def until(condition: Any, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def replicas(deployment: str) -> dict[str, int]:
    """The living replicas' actor names and processes."""
    from ray.serve.context import _get_global_client

    details = _get_global_client().get_serve_details()["applications"]["rayface"]["deployments"]
    found = details.get(deployment, {"replicas": []})["replicas"]  # none while an application is being built
    return {replica["actor_name"]: replica["pid"] for replica in found if replica["state"] == "RUNNING"}


def enhancer(url: str) -> dict[str, Any]:
    """What /v1/models says of it."""
    models = httpx.get(f"{url}/v1/models").json()["models"]
    return next(model for model in models if model["use"] == "enhance")


def test_a_model_is_changed_and_shared_under_load_without_a_restart(service: Running) -> None:
    url, before = service.url, replicas(service.enhancer)
    with load(url) as told:
        until(lambda: len(told.models) > 20)
        deploy(service, "enhancement@2")
        until(lambda: told.models[-20:] == ["enhancement@2"] * 20)
        assert enhancer(url)["version"] == "2"
        deploy(service, "enhancement@9")
        until(lambda: "refused" in enhancer(url))
        served = len(told.models)
        until(lambda: len(told.models) > served + 20)
    assert told.models[0] == "enhancement@1"
    assert told.models[-1] == "enhancement@2", "what cannot be loaded changes nothing"
    assert (set(told.statuses), told.odd) == ({200}, [])
    assert replicas(service.enhancer) == before
    deploy(service, "enhancement@1")


def test_a_killed_replica_loses_nothing_accepted(service: Running) -> None:
    killed = []
    with load(service.url) as told:
        for name in service.killed:
            served = len(told.models)
            until(lambda: len(told.models) > served + 10)  # noqa: B023
            for pid in replicas(name).values():
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            served = len(told.models)
            until(lambda: len(told.models) > served + 10)  # noqa: B023
    assert len(killed) == 3
    assert told.odd == []
    assert set(told.statuses) <= {200, 503}
    assert told.statuses[200] > 20


def test_other_settings_replace_replicas_under_load(service: Running) -> None:
    """A restart of everything but the proxy: new replicas first."""
    name = service.busiest
    before = replicas(name)
    with load(service.url) as told:
        until(lambda: len(told.models) > 10)
        deploy(service, "enhancement@1", max_faces=3)
        until(lambda: replicas(name) and replicas(name).keys().isdisjoint(before))
        served = len(told.models)
        until(lambda: len(told.models) > served + 10)
    assert (set(told.statuses) <= {200, 503}, told.odd) == (True, [])


def target_replicas(deployment: str) -> float:
    """What the node's metrics, as Prometheus reads them, say of a deployment."""
    import ray

    (node,) = (node for node in ray.nodes() if node["Alive"])
    page = httpx.get(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics").text
    of_deployment = re.compile(rf'^ray_serve_autoscaling_target_replicas{{.*deployment="{deployment}".*}} (\S+)$', re.M)
    return max(map(float, of_deployment.findall(page)), default=0.0)


def test_replicas_come_with_load_and_go_after_it(service: Running) -> None:
    """And the metrics show it."""
    name = service.busiest
    quick = {"upscale_delay_s": 1, "downscale_delay_s": 3, "look_back_period_s": 3, "metrics_interval_s": 1}
    deploy(service, "enhancement@1", {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 0.2, **quick})
    until(lambda: target_replicas(name) == 1)
    with load(service.url) as told:
        until(lambda: target_replicas(name) == 2 and len(replicas(name)) == 2)
        served = len(told.models)
        until(lambda: len(told.models) > served + 10)
    assert (set(told.statuses) <= {200, 503}, told.odd) == (True, [])
    until(lambda: target_replicas(name) == 1 and len(replicas(name)) == 1)
    with load(service.url) as told:
        until(lambda: len(told.models) > 10)
    assert told.odd == []

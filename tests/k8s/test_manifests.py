"""The overlays of k8s/ as kubectl builds them: KubeRay's schemas, and what they say held against the code."""

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from serve.settings import settings_from
from serve.upload import MULTIPART_OVERHEAD
from tests.commands import unknown_parts

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = ("cpu-dev", "cpu-dev/jobs", "gpu-prod", "gpu-prod/jobs", "incremental-upgrade")
SERVICES = {"cpu-dev": "config.yaml", "gpu-prod": "config.gpu.yaml", "incremental-upgrade": "config.gpu.yaml"}
SCHEMAS = Path(os.environ.get("RAYFACE_KUBERAY_SCHEMAS", ROOT.parent / "shared" / "kuberay"))


@functools.cache
def build(overlay: str) -> list[dict[str, Any]]:
    """The objects of an overlay."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    folder = ROOT / "k8s" / "overlays" / overlay
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "kustomize warns"
    return list(yaml.safe_load_all(done.stdout))


def of_kind(overlay: str, kind: str) -> list[dict[str, Any]]:
    return [made for made in build(overlay) if made["kind"] == kind]


def cluster_specs(overlay: str) -> Iterator[dict[str, Any]]:
    """The spec of every Ray cluster that the overlay makes or describes."""
    for made in build(overlay):
        match made["kind"]:
            case "RayCluster":
                yield made["spec"]
            case "RayJob":
                yield made["spec"]["rayClusterSpec"]
            case "RayService":
                yield made["spec"]["rayClusterConfig"]


def pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The pod templates of a Ray cluster, the head's first."""
    return [group["template"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


@functools.cache
def schema(kind: str) -> dict[str, Any]:
    """KubeRay's own schema of a kind, in which a field that it does not name is an error."""
    file = SCHEMAS / f"ray.io_{kind.lower()}s.yaml"
    if not file.exists():
        pytest.skip(f"no KubeRay schemas in {SCHEMAS.name}: set RAYFACE_KUBERAY_SCHEMAS")
    versions = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)["spec"]["versions"]
    (stored,) = [version for version in versions if version["storage"]]
    return closed(stored["schema"]["openAPIV3Schema"])


def closed(part: dict[str, Any]) -> dict[str, Any]:
    """A part of an OpenAPI schema as JSON schema, refusing unknown fields as `kubectl` with --validate=strict does."""
    if part.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {key: value for key, value in part.items() if key in ("type", "enum", "required", "pattern", "minimum")}
    if "properties" in part:
        made["properties"] = {name: closed(inner) for name, inner in part["properties"].items()}
        # the API server adds these to what a schema says of an object's own fields
        made["additionalProperties"] = bool(part.get("x-kubernetes-preserve-unknown-fields"))
    elif isinstance(part.get("additionalProperties"), dict):
        made["additionalProperties"] = closed(part["additionalProperties"])
    if "items" in part:
        made["items"] = closed(part["items"])
    return made


def faults(made: dict[str, Any]) -> list[str]:
    metadata = {"type": "object"}  # Kubernetes' own, which the schemas leave open
    whole = schema(made["kind"])
    whole = {**whole, "properties": {**whole["properties"], "metadata": metadata}}
    found = jsonschema.Draft7Validator(whole).iter_errors(made)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in found]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kuberay_takes_what_an_overlay_makes(overlay: str) -> None:
    ours = [made for made in build(overlay) if made["apiVersion"].startswith("ray.io/")]
    assert ours
    for made in ours:
        assert faults(made) == [], f"{made['kind']} {made['metadata']['name']}"


def test_a_field_that_kuberay_does_not_know_is_found() -> None:
    (service,) = of_kind("gpu-prod", "RayService")
    spec = {**service["spec"], "rayClusterConfg": {}, "serviceUnhealthySecondThreshold": "900"}
    found = faults({**service, "spec": spec})
    assert len(found) == 2
    assert any("rayClusterConfg" in fault for fault in found)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_run_as_nobody_with_bounded_resources(overlay: str) -> None:
    for spec in cluster_specs(overlay):
        assert spec["authOptions"] == {"mode": "token"}, "whoever reaches the job port could run code"
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        for pod in pods(spec):
            assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
            assert pod["metadata"]["labels"]["app.kubernetes.io/name"] == "rayface"
            volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
            for container in pod["spec"]["containers"]:
                assert container["securityContext"]["allowPrivilegeEscalation"] is False
                assert container["resources"]["requests"] == container["resources"]["limits"]
                assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
                name, _, tag = container["image"].rpartition(":")
                assert name.endswith("rayface"), "the image of k8s/Dockerfile"
                assert tag in ("cpu", "gpu"), "a target of k8s/Dockerfile"
                asked = "nvidia.com/gpu" in container["resources"]["limits"]
                assert tag == "gpu" or not asked


@pytest.mark.parametrize("overlay", SERVICES)
def test_the_service_is_deployed_as_its_config_file_says(overlay: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    (service,) = of_kind(overlay, "RayService")
    written = service["spec"]["serveConfigV2"]
    assert written == (ROOT / "serve" / SERVICES[overlay]).read_text(), "one source"
    config = yaml.safe_load(written)
    ServeDeploySchema.model_validate(config)
    settings = settings_from(config["applications"][0]["args"])

    if overlay == "incremental-upgrade":
        assert not of_kind(overlay, "Ingress"), "KubeRay's Gateway takes the traffic to both clusters"
    (ingress,) = of_kind("gpu-prod" if overlay == "incremental-upgrade" else overlay, "Ingress")
    annotations = ingress["metadata"]["annotations"]
    most = settings.max_photos * settings.limits.max_bytes + MULTIPART_OVERHEAD
    size = annotations["nginx.ingress.kubernetes.io/proxy-body-size"]
    assert most <= int(size.removesuffix("m")) * 2**20 < 1.02 * most, "what the service takes, and hardly more"
    assert annotations["nginx.ingress.kubernetes.io/proxy-request-buffering"] == "off", "photos in temporary files"

    served = config["http_options"]["request_timeout_s"]
    for pod in pods(service["spec"]["rayClusterConfig"]):
        for container in pod["spec"]["containers"]:
            variables = {variable["name"]: variable.get("value") for variable in container["env"]}
            assert variables["RAY_automatic_object_spilling_enabled"] == "0", "photos on a disk"
            assert variables["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
            assert config["http_options"]["port"] in {port["containerPort"] for port in container["ports"]}
    for worker in pods(service["spec"]["rayClusterConfig"])[1:]:
        (container,) = worker["spec"]["containers"]
        variables = {variable["name"]: variable.get("value") for variable in container["env"]}
        drained = float(variables["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert served < drained < worker["spec"]["terminationGracePeriodSeconds"], "accepted photos are answered"


@pytest.mark.parametrize("overlay", ["gpu-prod", "incremental-upgrade"])
def test_gpus_are_asked_for_and_tolerated(overlay: str) -> None:
    (service,) = of_kind(overlay, "RayService")
    (worker,) = pods(service["spec"]["rayClusterConfig"])[1:]
    (container,) = worker["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert [toleration["key"] for toleration in worker["spec"]["tolerations"]] == ["nvidia.com/gpu"]


@pytest.mark.parametrize("overlay", ["cpu-dev/jobs", "gpu-prod/jobs"])
def test_jobs_name_their_runs_and_share_their_storage(overlay: str) -> None:
    jobs = of_kind(overlay, "RayJob")
    assert {job["metadata"]["name"] for job in jobs} == {"train", "tune"}
    for job in jobs:
        command = job["spec"]["entrypoint"]
        assert unknown_parts(command) == []
        words = command.split()
        assert "--name" in words, "a run without a name never goes on after its cluster was lost"
        storage = words[words.index("--storage") + 1]
        assert job["spec"]["submissionMode"] == "SidecarMode"
        assert pods(job["spec"]["rayClusterSpec"])[0]["spec"]["restartPolicy"] == "Never", "as that mode wants it"
        for pod in pods(job["spec"]["rayClusterSpec"]):
            (container,) = pod["spec"]["containers"]
            assert any(storage.startswith(mount["mountPath"]) for mount in container["volumeMounts"])
        if overlay == "gpu-prod/jobs":
            assert "--gpu" in words


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_objects_do_not_share_names_that_kuberay_makes_others_of(overlay: str) -> None:
    kinds = ("RayCluster", "RayService", "ServiceAccount")
    names = [made["metadata"]["name"] for kind in kinds for made in of_kind(overlay, kind)]
    assert len(names) == len(set(names))
    (account,) = {made["metadata"]["name"] for made in build("gpu-prod") if made["kind"] == "ServiceAccount"}
    for spec in cluster_specs(overlay):
        head, *workers = pods(spec)
        assert "serviceAccountName" not in head["spec"], "KubeRay's own, for the autoscaler"
        assert all(worker["spec"]["serviceAccountName"] == account for worker in workers)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_object_store_fits_into_shared_memory(overlay: str) -> None:
    for spec in cluster_specs(overlay):
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
            shared = volumes["shared-memory"]["emptyDir"]
            assert shared["medium"] == "Memory"
            held = int(group["rayStartParams"]["object-store-memory"])
            assert held < int(shared["sizeLimit"].removesuffix("Gi")) * 2**30, "Ray would take a disk"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_and_ports_mean_something(overlay: str) -> None:
    templates = [pod for spec in cluster_specs(overlay) for pod in pods(spec)]
    labels = [pod["metadata"]["labels"] for pod in templates]
    ports = {port["name"] for pod in templates for box in pod["spec"]["containers"] for port in box["ports"]}
    for kind in ("PodMonitor", "PodDisruptionBudget"):
        for made in of_kind(overlay, kind):
            wanted = {**made["spec"]["selector"]["matchLabels"]}
            node = wanted.pop("ray.io/node-type", "worker")  # KubeRay's own label
            assert node == "worker"
            assert any(wanted.items() <= label.items() for label in labels), f"{kind} selects no pod"
    for budget in of_kind(overlay, "PodDisruptionBudget"):
        assert isinstance(budget["spec"]["minAvailable"], int), "Ray's pods have no owner with a scale"
        for spec in cluster_specs(overlay):
            assert sum(group["minReplicas"] for group in spec["workerGroupSpecs"]) > budget["spec"]["minAvailable"]
    for monitor in of_kind(overlay, "PodMonitor"):
        assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= ports
    for rule in of_kind(overlay, "PrometheusRule"):
        assert rule["spec"] == yaml.safe_load((ROOT / "k8s" / "observability" / "rules.yml").read_text())
        (shown,) = (m["data"] for m in of_kind(overlay, "ConfigMap") if m["metadata"]["name"] == "rayface-dashboards")
        assert set(shown) == {"serving.json", "training.json"}
    for policy in of_kind(overlay, "NetworkPolicy"):
        assert any(policy["spec"]["podSelector"]["matchLabels"].items() <= label.items() for label in labels)
    for account in of_kind(overlay, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False

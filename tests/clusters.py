"""Ray clusters as users start them, by `ray start`, on the machines of tests/machines.py; jobs by `ray job submit`."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serve.proxy import free_ports
from tests.machines import Machine, as_typed

ROOT = Path(__file__).resolve().parents[1]
RAY = str(Path(sys.executable).with_name("ray"))


class RayCluster:
    """A head on the first machine and workers on the others, with a token of its own.

    Whoever reaches a job port without a token can run code.
    """

    def __init__(self, machines: Sequence[Machine], logs: Path, environment: Mapping[str, str] | None = None) -> None:
        self.machines, self.logs = machines, logs
        self.port, self.job_port, self.client_port = free_ports(3)
        # as in an activated environment: a job's `python` is this one
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = {
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "PATH": path,
            **(environment or {}),
        }  # fmt: skip
        # sockets want a short path; and a head that is killed must not stay in /tmp/ray as the newest cluster
        self.temporary = tempfile.mkdtemp(prefix="rf-")
        self.ids: set[str] = set()  # of all nodes that ever were

    @property
    def address(self) -> str:
        return f"{self.machines[0].address}:{self.port}"

    @property
    def jobs(self) -> str:
        return f"http://{self.machines[0].address}:{self.job_port}"

    def start_head(self, cpus: int = 0, redis: str = "") -> None:
        """`redis` (host:port) keeps the cluster's state beyond the head."""
        before = self.ids
        kept = {"RAY_REDIS_ADDRESS": redis, "RAY_external_storage_namespace": Path(self.temporary).name}
        self._start(
            self.machines[0], "head", "--head", f"--port={self.port}", f"--num-cpus={cpus}", "--include-dashboard=true",
            "--dashboard-host=0.0.0.0", f"--dashboard-port={self.job_port}", f"--temp-dir={self.temporary}",
            f"--ray-client-server-port={self.client_port}", environment=kept if redis else {},
        )  # fmt: skip
        # the list of nodes comes later than the first answer, and a head of before may still stand there
        self.until(lambda: len(self.alive() - before) == 1, "head")
        self.ids |= self.alive()

    def start_worker(self, machine: Machine, cpus: int = 1) -> None:
        before = self.ids
        name = f"worker-{self.machines.index(machine)}"
        self._start(machine, name, f"--address={self.address}", f"--num-cpus={cpus}")
        self.until(lambda: len(self.alive() - before) == 1, name)
        self.ids |= self.alive()

    def _start(self, machine: Machine, log: str, *options: str, environment: Mapping[str, str] | None = None) -> None:
        (agent_port,) = free_ports(1)  # a fixed one clashes where two nodes are on one machine
        command = [
            RAY, "start", "--block", "--disable-usage-stats", f"--node-ip-address={machine.address}",
            "--object-store-memory=200000000", f"--dashboard-agent-listen-port={agent_port}", *options,
        ]  # fmt: skip
        machine.start(command, {**self.environment, **(environment or {})}, self.logs / log, Path(self.temporary))

    def alive(self) -> set[str]:
        """Ids of the nodes that are up; none where the head does not answer."""
        return {node["node_id"] for node in self.nodes() if node["state"] == "ALIVE"}

    def nodes(self) -> list[dict[str, Any]]:
        try:
            return list(self.get("/api/v0/nodes?detail=true")["data"]["result"]["result"])
        except OSError:
            return []

    def node_of(self, machine: Machine) -> str:
        """Id of the node on a machine that has one of its own."""
        (found,) = (n["node_id"] for n in self.nodes() if n["node_ip"] == machine.address and n["state"] == "ALIVE")
        return str(found)

    def drain(self, machine: Machine, seconds: int) -> None:
        """Tell the cluster, as a cloud does, that a machine will be taken away after so many seconds."""
        done = subprocess.run(
            [
                RAY, "drain-node", f"--address={self.address}", f"--node-id={self.node_of(machine)}",
                "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot",
                f"--deadline-remaining-seconds={seconds}",
            ],
            capture_output=True, text=True, env=as_typed(self.environment),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def get(self, path: str) -> Any:
        request = urllib.request.Request(
            f"{self.jobs}{path}", headers={"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.loads(answer.read())

    def submit(self, *command: str, settings: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """`ray job submit -- python ...` from the checkout, until the job's end."""
        return self.ray("job", "submit", *self._submission(settings), "--", "python", *command)

    def begin(self, name: str, *command: str, settings: Mapping[str, str] | None = None) -> None:
        """The same without waiting; `name` is the submission id."""
        done = self.ray(
            "job", "submit", "--no-wait", "--submission-id", name, *self._submission(settings), "--", "python", *command
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _submission(self, settings: Mapping[str, str] | None) -> list[str]:
        environment = json.dumps({"env_vars": dict(settings or {})})
        return ["--working-dir", ".", *(("--runtime-env-json", environment) if settings else ())]

    def ray(self, *words: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """A `ray job ...` command, as a user types it."""
        group, command, *rest = words
        return subprocess.run(
            [RAY, group, command, "--address", self.jobs, *rest], cwd=ROOT, capture_output=True, text=True,
            timeout=timeout, env=as_typed(self.environment),
        )  # fmt: skip

    def status(self, name: str) -> str:
        """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
        return str(self.get(f"/api/jobs/{name}")["status"])

    def wait_for_job(self, name: str, seconds: float = 600) -> str:
        """Its status at the end and what it printed."""
        self.until(lambda: self.status(name) in ("STOPPED", "SUCCEEDED", "FAILED"), name, seconds)
        return f"{self.status(name)}\n{self.get(f'/api/jobs/{name}/logs')['logs']}"

    def until(self, met: Any, what: str, seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if met():
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                log = self.logs / what
                raise AssertionError(f"{what} did not come: {log.read_text()[-3000:] if log.exists() else 'no log'}")
            time.sleep(0.5)

    def stop(self) -> None:
        """By killing the machines' processes, not by `ray stop`, which stops every cluster."""
        for machine in self.machines:
            machine.power_off()
        for number, machine in enumerate(self.machines):
            folder = machine.folder(Path(self.temporary))
            for session in folder.glob("session_2*"):  # to be read when a test has failed
                shutil.copytree(session / "logs", self.logs / f"{number}-{session.name}", symlinks=True)
            shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self.temporary, ignore_errors=True)

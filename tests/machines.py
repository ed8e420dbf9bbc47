"""Machines for a cluster of tests: network namespaces where this user may make them, else this machine several times.

A namespace has an address, ports, a loopback, processes and a folder of its own, so programs in two of them meet as on
two hosts. All other files are shared, as if every machine had them mounted.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil


@dataclass
class Machine:
    """One host; `namespace` is None where it is this machine itself."""

    address: str
    namespace: str | None = None
    link: str = ""  # its end of the cable, on this machine
    started: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, own: Path
    ) -> "subprocess.Popen[bytes]":
        """A process on this machine; its output goes to the end of `log`. The folder `own` is another on each."""
        if self.namespace:
            # processes of its own, too: Ray looks through /proc for clusters that already run on a machine
            alone = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
            mounted = ("sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"', str(self.folder(own)), str(own))
            command = ["ip", "netns", "exec", self.namespace, *alone, *mounted, *command]
        with log.open("ab") as file:
            process = subprocess.Popen(
                command, env=as_typed(environment), stdout=file, stderr=file, start_new_session=True
            )
        self.started.append(process)
        return process

    def folder(self, own: Path) -> Path:
        """Where this machine's folder `own` lies for everybody else."""
        if not self.namespace:
            return own
        folder = own.with_name(f"{own.name}-{self.namespace}")
        folder.mkdir(exist_ok=True)
        return folder

    def pids(self) -> list[int]:
        """All that runs on it."""
        if self.namespace:
            listed = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=True)
            return [int(pid) for pid in listed.stdout.split()]
        found = []
        for process in self.started:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
        return found

    def power_off(self) -> None:
        """Kill all of it without a word."""
        while pids := self.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for process in self.started:
                process.wait()
            self.started.clear()

    def unplug(self) -> None:
        """Its packets vanish; nobody is told. Namespaces only."""
        ip("link", "set", self.link, "down")

    def plug(self) -> None:
        ip("link", "set", self.link, "up")


def as_typed(environment: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with more, without what tests/conftest.py sets for clusters within pytest."""
    held = {name: value for name, value in os.environ.items() if not name.startswith("RAY_TRAIN_")}
    return {**held, **environment}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def namespaces_can_be_made() -> bool:
    """Whether this user may make network namespaces (root, and a kernel and a container that allow it)."""
    probe = f"rf{os.getpid()}probe"
    try:
        ip("netns", "add", probe)
    except (OSError, subprocess.CalledProcessError):
        return False
    ip("netns", "delete", probe)
    return True


@contextlib.contextmanager
def machines(count: int) -> Iterator[list[Machine]]:
    """`count` machines that reach each other and this one; powered off at the end."""
    made: list[Machine] = []
    if not namespaces_can_be_made():
        made = [Machine("127.0.0.1") for _ in range(count)]
        try:
            yield made
        finally:
            for machine in made:
                machine.power_off()
        return
    name, net = f"rf{os.getpid()}", f"10.201.{os.getpid() % 250}"
    bridge = f"{name}b"
    try:
        ip("link", "add", bridge, "type", "bridge")
        ip("address", "add", f"{net}.254/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for number in range(1, count + 1):
            made.append(_plugged_in(f"{name}n{number}", f"{name}v{number}", f"{net}.{number}", bridge))
        yield made
    finally:
        for machine in made:
            machine.power_off()
            ip("netns", "delete", str(machine.namespace))
        ip("link", "delete", bridge)


def _plugged_in(namespace: str, link: str, address: str, bridge: str) -> Machine:
    ip("netns", "add", namespace)
    ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace)
    ip("link", "set", link, "master", bridge, "up")
    for words in (
        ("address", "add", f"{address}/24", "dev", "eth0"), ("link", "set", "eth0", "up"), ("link", "set", "lo", "up"),
        ("route", "add", "default", "via", f"{address.rpartition('.')[0]}.254"),
    ):  # fmt: skip
        ip("-netns", namespace, *words)
    return Machine(address, namespace, link)


def address_of_this_machine(of: Sequence[Machine]) -> str:
    """The address at which the machines reach this one."""
    first = of[0].address
    return f"{first.rpartition('.')[0]}.254" if of[0].namespace else first

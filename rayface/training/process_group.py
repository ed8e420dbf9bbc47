"""The torch process group of Ray Train's workers, over the network by which Ray itself reaches the node."""

import os
from typing import Any

import psutil
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend
from ray.util import get_node_ip_address

INTERFACE = "GLOO_SOCKET_IFNAME"


class RayNetwork(TorchConfig):
    """Gloo on the interface that has the node's address for Ray, unless GLOO_SOCKET_IFNAME names one.

    Gloo itself takes the one that the host's name leads to. On Debian and many machines of one's own that is the
    loopback, and workers on two nodes wait for each other in vain. NCCL looks for interfaces by itself.
    """

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _OnRayNetwork


class _OnRayNetwork(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(use_interface_of_ray)
        super().on_start(worker_group, backend_config)


def use_interface_of_ray() -> None:
    """Name this node's interface to gloo, in this process."""
    name = interface_of(get_node_ip_address())
    if name:
        os.environ.setdefault(INTERFACE, name)


def interface_of(address: str) -> str | None:
    """The network interface that has an IP address; None where none has it."""
    for name, held in psutil.net_if_addrs().items():
        if any(one.address == address for one in held):
            return name
    return None

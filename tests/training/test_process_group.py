"""The network interface on which workers of several nodes meet; that they do is shown in tests/chaos/test_nodes.py."""

import psutil
import pytest

from rayface.training import process_group
from rayface.training.process_group import INTERFACE, interface_of, use_interface_of_ray


def test_the_interface_of_an_address() -> None:
    loopback = interface_of("127.0.0.1")
    assert loopback in psutil.net_if_addrs()
    assert interface_of("192.0.2.255") is None


def test_a_named_interface_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setenv(INTERFACE, "eth7")
    use_interface_of_ray()
    assert process_group.os.environ[INTERFACE] == "eth7"
    monkeypatch.delenv(INTERFACE)
    use_interface_of_ray()
    assert process_group.os.environ[INTERFACE] == interface_of("127.0.0.1")

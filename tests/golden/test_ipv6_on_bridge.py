"""IPv6 clients and members on a real bridge, each in a kernel's network namespace of its own: nobody makes a frame by
hand here, so that it is the kernels who find each other by neighbour discovery, and a bridge that learns."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any

import pytest
from test_cluster_files import MULTIPLE, TCP, cluster, lab
from wire import Cluster, Member, enter_namespace

from labctl.cluster.ownership import owner_of
from labctl.cluster.render import cluster_mac
from labctl.topology.spec import ClusterMode, PortRule

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("nft"), reason="needs nft, and root for network namespaces"
)

VIRTUAL = IPv6Address("fd00:77::20")
CLIENTS = [IPv6Address(f"fd00:77:200::{n:x}") for n in range(1, 25)]
WEB = PortRule(80, 80, TCP, MULTIPLE)


class Namespace:
    """A network namespace; it is that of one thread, where all that concerns it runs."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, initializer=enter_namespace)
        self.number: int = self.run(threading.get_native_id)
        self.sh("ip link set lo up")

    def run(self, act: Callable[..., Any], *given: Any) -> Any:
        return self._thread.submit(act, *given).result(timeout=60)

    def sh(self, script: str) -> str:
        done = self.run(lambda: subprocess.run(["sh", "-euc", script], text=True, capture_output=True, check=False))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def close(self) -> None:
        self._thread.shutdown()


@dataclass
class Net:
    """Members and a client, plugged into one bridge."""

    bridge: Namespace
    client: Namespace
    members: Cluster

    def plug(self, member: Member, port: str) -> None:
        """The other end of a member's cable becomes a port of the bridge."""
        member.sh(f"ip link set cable netns {self.bridge.number} name {port}")
        self.bridge.sh(f"ip link set {port} master switch; ip link set {port} up")

    def ask(self, source: IPv6Address) -> str:
        """Which member answers a connection of that client."""

        def connect() -> str:
            with socket.socket(socket.AF_INET6) as asking:
                asking.settimeout(20)
                asking.bind((str(source), 0))
                asking.connect((str(VIRTUAL), 80))
                return asking.recv(16).decode()

        return self.client.run(connect)

    def learned(self) -> set[str]:
        """The MACs that the bridge has learned from frames."""
        shown = json.loads(self.bridge.sh("bridge -json fdb show br switch"))
        return {entry["mac"] for entry in shown if entry.get("state") != "permanent"}


def served(member: Member) -> socket.socket:
    """Every connection to the member is told its name."""
    service = member.run(lambda: socket.create_server((str(VIRTUAL), 80), family=socket.AF_INET6, backlog=64))

    def serve() -> None:
        while True:
            try:
                connection, _from = service.accept()
            except OSError:
                return  # closed
            with connection:
                connection.sendall(member.node.name.encode())

    threading.Thread(target=serve, daemon=True).start()
    return service


@pytest.fixture(params=[ClusterMode.UNICAST, ClusterMode.MULTICAST], scope="module")
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    """Two members that serve, and a client with many addresses."""
    found = Net(Namespace(), Namespace(), Cluster(lab(cluster(WEB, mode=request.param, more=(str(VIRTUAL),)))))
    found.bridge.sh("ip link add switch type bridge forward_delay 0; ip link set switch up")
    found.client.sh(f"ip link add host type veth peer name client netns {found.bridge.number}")
    found.bridge.sh("ip link set client master switch; ip link set client up")
    own = "\n".join(f"ip address add {address}/32 dev host nodad" for address in CLIENTS)
    found.client.sh(f"{own}\nip link set host up")
    services = []
    for host, member in found.members.members.items():
        found.plug(member, f"member{host}")
        mac = cluster_mac(member.cluster)
        takes = f"bridge fdb replace {mac} dev cluster self" if request.param is ClusterMode.UNICAST else ""
        member.sh(takes or f"ip maddress add {mac} dev cluster")
        member.takes_for_alive(1, 2)
        services.append(served(member))
    yield found
    for service in services:
        service.shutdown(socket.SHUT_RDWR)
        service.close()
    found.members.close()
    found.client.close()
    found.bridge.close()


def named(net: Net, client: IPv6Address, *alive: int) -> str:
    """Who answers a client, as labctl has it."""
    member = net.members[1]
    owner = owner_of(member.cluster, WEB, client, 0, lambda _rule: alive)
    return next(m.node for m in member.cluster.members if m.priority == owner)


def test_each_client_is_served_by_the_member_that_labctl_names(net: Net) -> None:
    answers = {client: net.ask(client) for client in CLIENTS}
    assert answers == {client: named(net, client, 1, 2) for client in CLIENTS}
    assert set(answers.values()) == {"cas1", "cas2"}


def test_clients_send_to_the_cluster_mac_and_the_bridge_learns_the_members_own_alone(net: Net) -> None:
    net.client.sh("ip -6 neigh flush all")
    net.ask(CLIENTS[0])
    mac = cluster_mac(net.members[1].cluster)
    assert f"lladdr {mac}" in net.client.sh(f"ip -6 neigh show {VIRTUAL}")
    learned = net.learned()
    assert mac not in learned
    assert {member.node.nic("cluster").mac for member in net.members.members.values()} <= learned


def test_a_member_that_asks_for_its_client_does_not_become_the_virtual_address_for_it(net: Net) -> None:
    mac = cluster_mac(net.members[1].cluster)
    for member in net.members.members.values():
        member.sh("ip -6 neigh flush dev cluster nud reachable nud stale nud delay nud probe")
    for client in CLIENTS[:8]:
        net.ask(client)
        assert f"lladdr {mac}" in net.client.sh(f"ip -6 neigh show {VIRTUAL}")


def test_when_a_member_dies_its_clients_alone_go_to_the_other(net: Net) -> None:
    member = net.members[2]
    member.takes_for_alive(2)
    net.members[1].takes_for_alive()
    try:
        assert {net.ask(client) for client in CLIENTS} == {"cas2"}
    finally:
        for one in net.members.members.values():
            one.takes_for_alive(1, 2)

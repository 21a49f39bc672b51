"""Members of a cluster without guests: each is a network namespace with the packet filter that labctl renders, and the
cable of its NIC ends here. Frames, adverts among them, are put on it by hand, so that every one of them is known.
"""

from __future__ import annotations

import ctypes
import re
import socket
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from packets import (
    ACK,
    ICMPV6,
    PSH,
    RST,
    SYN,
    Advertisement,
    Client,
    Segment,
    advertisement,
    datagram,
    packet,
    segment,
    summed,
    tcp,
    version,
)

from labctl.cluster.advert import ADDRESSES
from labctl.cluster.render import cluster_mac, member_files, table_of
from labctl.topology.spec import LabSpec, RuleProtocol
from labctl.topology.values import IPAddress

VRRP = 112
ROUTER, ROUTER6 = "10.77.255.254", "fd00:77:ffff::fffe"
SOMEBODY = bytes.fromhex("525400ffffff")
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET of linux/sched.h
_FORCE_BUFFER = 33  # SO_RCVBUFFORCE of asm-generic/socket.h


def enter_namespace() -> None:
    """Give the calling thread a network namespace of its own."""
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "unshare")


@dataclass(frozen=True)
class Ends:
    """A connection's: the client, and the virtual address with its port."""

    client: Client
    port: int
    to: IPAddress


class Member:
    """One member; its namespace is that of one thread, where all that concerns it runs."""

    def __init__(self, spec: LabSpec, name: str) -> None:
        self.spec, self.node = spec, spec.node(name)
        (self.cluster,) = spec.clusters
        self.me = next(m for m in self.cluster.members if m.node == name)
        self.address = self.node.nic(self.me.nic).address.ip
        self.table = table_of(self.cluster)
        self._thread = ThreadPoolExecutor(1, initializer=enter_namespace)
        self._services: dict[tuple[RuleProtocol, int, IPAddress], socket.socket] = {}
        self.run(self._set_up)

    def run(self, act: Callable[..., Any], *given: Any) -> Any:
        """What an act comes to in the member's namespace."""
        return self._thread.submit(act, *given).result(timeout=60)

    def close(self) -> None:
        """The namespace ends with its thread and the sockets."""
        for opened in (self._cable, *self._services.values()):
            opened.close()
        self._thread.shutdown()

    def _set_up(self) -> None:
        nic, mac = self.me.nic, self.node.nic(self.me.nic).mac
        for line in (
            "ip link set lo up",
            f"ip link add {nic} address {mac} type veth peer name cable",
            f"sysctl -q -w net.ipv6.conf.{nic}.accept_dad=0 net.ipv6.conf.cable.disable_ipv6=1",
            f"ip link set {nic} up",
            "ip link set cable up",
            f"ip address add {self.address}/32 dev {nic}",
            *(f"ip address add {vip}/32 dev {nic}" for vip in self.cluster.addresses4),
            # Clients are behind a router, so that nobody has to be asked for their MACs.
            f"ip neigh add {ROUTER} lladdr {SOMEBODY.hex(':')} dev {nic} nud permanent",
            f"ip route add default via {ROUTER} dev {nic} onlink",
            f"sysctl -q -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.{nic}.rp_filter=0",
            *(self._ipv6(nic) if self.cluster.addresses6 else ()),
        ):
            subprocess.run(line.split(), check=True, capture_output=True)
        self._nft(self.rules)
        subprocess.run(["sysctl", "-q", "-w", "net.netfilter.nf_conntrack_tcp_loose=0"], check=True)
        self._cable = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._cable.setsockopt(socket.SOL_SOCKET, _FORCE_BUFFER, 64 << 20)
        self._cable.bind(("cable", 0))
        self._cable.setblocking(False)

    def _ipv6(self, nic: str) -> Iterator[str]:
        yield f"ip address add {self.node.nic(nic).address6} dev {nic} nodad"
        for vip in self.cluster.addresses6:
            yield f"ip address add {vip}/128 dev {nic} nodad preferred_lft 0"
        yield f"ip neigh add {ROUTER6} lladdr {SOMEBODY.hex(':')} dev {nic} nud permanent"
        yield f"ip -6 route add default via {ROUTER6} dev {nic} onlink"

    @property
    def rules(self) -> str:
        return member_files(self.spec, self.node)[f"/etc/labctl/cluster/{self.cluster.name}.nft"][0]

    # -- the packet filter -----------------------------------------------------------------------------------------

    def nft(self, script: str) -> str:
        """Run nft's commands; returns what it said."""
        return self.run(self._nft, script)

    def _nft(self, script: str) -> str:
        done = subprocess.run(["nft", "--file", "-"], input=script, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def sh(self, script: str) -> str:
        """Run a shell script in the member's namespace; returns what it said."""
        done = self.run(lambda: subprocess.run(["sh", "-euc", script], text=True, capture_output=True, check=False))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def load(self, spec: LabSpec) -> None:
        """Load another rule file, as a member does whose topology has changed."""
        self.spec = spec
        (self.cluster,) = spec.clusters
        self.nft(self.rules)

    def takes_for_alive(self, *hosts: int) -> None:
        """Let these members, and nobody else, count as alive for long."""
        elements = ", ".join(f"{host} timeout 1h" for host in hosts)
        added = f"add element {self.table} alive {{ {elements} }}" if hosts else ""
        self.nft(f"flush set {self.table} alive\n{added}")

    def holds(self, name: str) -> set[int]:
        """The elements of a set of marks."""
        said = self.nft(f"list set {self.table} {name}")
        return {int(e, 16) for e in re.findall(r"0x[0-9a-f]{8}", said)}

    def counted(self, chain: str) -> list[int]:
        """How many packets each counter of a chain has seen, in the chain's order."""
        said = self.nft(f"list chain {self.table} {chain}")
        return [int(n) for n in re.findall(r"counter packets (\d+)", said)]

    # -- frames ----------------------------------------------------------------------------------------------------

    def put(self, frames: Iterable[bytes]) -> None:
        """Put frames on the cable, towards the member."""
        self.run(lambda: [self._cable.send(frame) for frame in frames])

    def sent(self) -> list[bytes]:
        """The frames that the member has sent since this was asked last."""
        found = []
        while True:
            try:
                frame, (_nic, _protocol, kind, _hw, _mac) = self._cable.recvfrom(2048)
            except BlockingIOError:
                return found
            if kind != socket.PACKET_OUTGOING:
                found.append(frame)

    def serve(self, protocol: RuleProtocol, port: int) -> None:
        """Have a service on a port of each virtual address."""

        def begin(vip: IPAddress) -> socket.socket:
            kind = socket.SOCK_STREAM if protocol is RuleProtocol.TCP else socket.SOCK_DGRAM
            service = socket.socket(socket.AF_INET6 if vip.version == 6 else socket.AF_INET, kind)
            service.setsockopt(socket.SOL_SOCKET, _FORCE_BUFFER, 64 << 20)
            service.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            service.bind((str(vip), port))
            if protocol is RuleProtocol.TCP:
                service.listen(4096)
            service.setblocking(False)
            return service

        for vip in self.cluster.addresses:
            self._services[protocol, port, vip] = self.run(begin, vip)

    def accepted(self, port: int, to: IPAddress) -> list[Client]:
        """Whose datagrams the service on a UDP port of a virtual address has got since this was asked last, one entry
        each."""
        service, found = self._services[RuleProtocol.UDP, port, to], []
        while True:
            try:
                found.append(service.recvfrom(16)[1][:2])
            except BlockingIOError:
                return found

    def segments(self) -> list[Segment]:
        """The TCP segments that the member has sent since its frames were asked for last."""
        return [s for frame in self.sent() if (s := segment(frame))]

    # -- what a client sends ---------------------------------------------------------------------------------------

    def datagrams(self, clients: Iterable[Client], port: int, to: IPAddress) -> list[bytes]:
        return [self._frame(17, source, to, datagram((source, own), (str(to), port))) for source, own in clients]

    def segment_of(self, ends: Ends, flags: int, sequence: int, acknowledged: int = 0, data: bytes = b"") -> bytes:
        (source, own), there = ends.client, (str(ends.to), ends.port)
        return self._frame(6, source, ends.to, tcp((source, own), there, flags, sequence, acknowledged, data))

    def pings(self, source: str, to: IPAddress, said: bytes = b"") -> list[bytes]:
        """The frames that the member sends when an ICMPv6 message, an echo request by default, comes to an address."""
        self.sent()
        message = said or struct.pack(">BBHHH", 128, 0, 0, 7, 1)
        self.put([self._frame(ICMPV6, source, to, summed(ICMPV6, source, str(to), message, 2))])
        return self.sent()

    def _frame(self, protocol: int, source: str, to: IPAddress, payload: bytes) -> bytes:
        kind = b"\x86\xdd" if to.version == 6 else b"\x08\x00"
        mac = bytes.fromhex(cluster_mac(self.cluster).replace(":", ""))
        return mac + SOMEBODY + kind + packet(protocol, source, str(to), payload)

    def asked_for(self, address: str) -> bytes | None:
        """The member's answer to an ARP request for an address, as a frame; None when it does not answer."""
        somebody = IPv4Address("10.77.200.1").packed
        ends = SOMEBODY + somebody + bytes(6) + IPv4Address(address).packed
        self.sent()
        self.put([b"\xff" * 6 + SOMEBODY + b"\x08\x06" + struct.pack(">HHBBH", 1, 0x800, 6, 4, 1) + ends])
        return next((f for f in self.sent() if f[12:14] == b"\x08\x06" and f[20:22] == b"\x00\x02"), None)

    def solicited(self, address: IPAddress) -> Advertisement | None:
        """The member's answer to a neighbour solicitation for an IPv6 address; None when it does not answer."""
        source, group = "fd00:77:200::1", IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + address.packed[13:])
        body = struct.pack(">BBHI", 135, 0, 0, 0) + address.packed + b"\x01\x01" + SOMEBODY
        message = summed(ICMPV6, source, str(group), body, 2)
        self.sent()
        asked = packet(ICMPV6, source, str(group), message, hops=255)
        self.put([b"\x33\x33" + group.packed[12:] + SOMEBODY + b"\x86\xdd" + asked])
        return next((found for frame in self.sent() if (found := advertisement(frame))), None)

    def asks_for(self, address: str, source: IPAddress) -> bytes:
        """The frame with which the member asks for the MAC of an IPv6 address, to send there from one of its own."""
        self.sent()

        def speak() -> None:
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as spoken:
                spoken.bind((str(source), 0))
                spoken.sendto(b"x", (address, 9))

        self.run(speak)
        return next(f for f in self.sent() if f[12:14] == b"\x86\xdd" and f[20] == ICMPV6 and f[54] == 135)

    # -- heartbeat -------------------------------------------------------------------------------------------------

    def beat(self, priority: int = 100) -> bytes:
        """Send one advert, as keepalived does; returns the frame as it has left the member."""
        (frame,) = [f for f in self.advertises(priority) if f[23] == VRRP]
        return frame

    def advertises(self, priority: int = 100) -> list[bytes]:
        """Send one advert; returns all frames that have left the member for it."""
        self.sent()
        self.run(self._advertise, priority)
        return self.sent()

    def _advertise(self, priority: int) -> None:
        body = b"".join(IPv4Address(f"198.18.1.{n}").packed for n in range(1, ADDRESSES + 1))
        message = struct.pack(">BBBBHH", 0x31, self.me.priority, priority, ADDRESSES, 100, 0) + body
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, VRRP) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.me.nic.encode())
            raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
            raw.bind((str(self.address), 0))
            raw.sendto(message, ("224.0.0.18", 0))


class Cluster:
    """All members of a cluster on one wire, which carries what it is told to."""

    def __init__(self, spec: LabSpec) -> None:
        self.members = {m.priority: Member(spec, m.node) for m in spec.clusters[0].members}

    def __getitem__(self, host: int) -> Member:
        return self.members[host]

    def close(self) -> None:
        for member in self.members.values():
            member.close()

    def beat(self, *silent: int) -> None:
        """One heartbeat of all but the silent members, heard by all."""
        for host, member in self.members.items():
            if host not in silent:
                self.deliver(host, member.beat())

    def deliver(self, sender: int, frame: bytes) -> None:
        for host, member in self.members.items():
            if host != sender:
                member.put([frame])

    def dies(self, host: int) -> None:
        """All members, itself included, have not heard it for so long that it is out."""
        for member in self.members.values():
            member.nft(f"delete element {member.table} alive {{ {host} }}")

    def owners(self, clients: list[Client], port: int, to: IPAddress | None = None) -> dict[Client, list[int]]:
        """Who has accepted each client's datagram, when every member gets every one of them.

        Args:
            to: the virtual address; the first of the clients' kind when left out.
        """
        found: dict[Client, list[int]] = {client: [] for client in clients}
        to = to or self.meant(clients[0])
        for host, member in self.members.items():
            member.put(member.datagrams(clients, port, to))
            for client in member.accepted(port, to):
                found[client].append(host)
        return found

    def meant(self, client: Client) -> IPAddress:
        """The first virtual address that a client can send to."""
        return next(a for a in next(iter(self.members.values())).cluster.addresses if a.version == version(client[0]))


class Connection:
    """A TCP connection to a virtual address; whatever the client sends reaches every member."""

    def __init__(self, made: Cluster, client: Client, port: int, to: IPAddress | None = None) -> None:
        self._made, self._ends = made, Ends(client, port, to or made.meant(client))
        self._sequence = self._acknowledged = 1
        answers = self._put(SYN)
        assert [len(a) for a in answers.values()] == [1], f"{client}: {answers}"
        ((self.host, (answer,)),) = answers.items()
        assert answer.flags == SYN | ACK
        self._sequence, self._acknowledged = 2, answer.sequence + 1
        self._put(ACK)

    def says(self) -> dict[int, bool]:
        """Send a byte; returns who answered it, and whether with anything but a reset."""
        answers = self._put(PSH | ACK, b"x")
        self._sequence += 1
        return {host: not any(a.flags & RST for a in found) for host, found in answers.items()}

    def _put(self, flags: int, data: bytes = b"") -> dict[int, list[Segment]]:
        answers = {}
        for host, member in self._made.members.items():
            member.sent()
            member.put([member.segment_of(self._ends, flags, self._sequence, self._acknowledged, data)])
            found = [s for s in member.segments() if (s.to, s.port) == (self._ends.client, self._ends.port)]
            if found:
                answers[host] = found
        return answers

"""How a network is broken, inside the guests: bad cables (tc-netem), nodes that don't hear each other, DNS that is cut.

In the guest rather than on the host's side of the NIC, so that it works on a hypervisor elsewhere. All of it is gone
when the guest boots; only what has our own handle or table name is ever removed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from labctl.errors import InputError
from labctl.faults.ground import Ground, OnNode, Seen
from labctl.faults.model import (
    Corrupt,
    Delay,
    Direction,
    DnsOutage,
    Duplicate,
    Fault,
    Impairment,
    Loss,
    Partition,
    Rate,
    Reorder,
)
from labctl.faults.text import load, slug
from labctl.topology.mac import cluster_mac

__all__ = ["DnsOutageWay", "ImpairmentWay", "PartitionWay", "netem_arguments", "netem_figures"]


def netem_figures(faults: Iterable[Impairment]) -> dict[str, float]:
    """What the kernel must say of a NIC with these impairments: seconds, shares of one, bytes a second."""
    figures: dict[str, float] = {}
    for fault in faults:
        for name, value in _figures(fault).items():
            figures[name] = figures.get(name, 0.0) + value
    return figures


def _figures(fault: Impairment) -> dict[str, float]:
    match fault:
        case Delay():
            return {"delay": fault.ms / 1000}
        case Reorder():
            return {"delay": fault.ms / 1000, "reorder": fault.percent / 100}
        case Rate():
            return {"rate": fault.kbit_s * 125}
        case Loss() | Duplicate() | Corrupt():
            return {fault.NAME: fault.percent / 100}
    raise InputError(f"{fault.kind} is no impairment of a NIC")


def netem_arguments(faults: Sequence[Impairment]) -> list[str]:
    """The same as tc-netem(8) takes it; empty for no impairment."""
    figures = netem_figures(faults)
    arguments = []
    if delay_s := figures.get("delay"):
        jitter_ms = sum(f.jitter_ms for f in faults if isinstance(f, Delay))
        arguments += ["delay", f"{delay_s * 1000:g}ms", *([f"{jitter_ms:g}ms"] if jitter_ms else [])]
    for name in ("loss", "duplicate", "reorder", "corrupt"):
        if share := figures.get(name):
            arguments += [name, f"{share * 100:g}%"]
    if rate := figures.get("rate"):
        arguments += ["rate", f"{rate * 8:g}bit"]
    seeds = [f.seed for f in faults if isinstance(f, Loss | Duplicate | Reorder | Corrupt) and f.seed is not None]
    return [*arguments, *(["seed", str(seeds[0])] if seeds else [])]


# $1: NIC, $2: netem's arguments for what goes out, $3: for what comes in, $4: MACs of clusters. What comes in is led
# through a device of our own, since only what goes out can be queued. Frames that come back from there are past nft's
# ingress hook, where a member takes the cluster's MAC for its own, so that is said here: else it would get none of
# them. A changed netem keeps what is not named, so the old one goes first.
_NETEM = """
set -eu
nic=$1 away=$2 here=$3 shared=$4
ifb=labctl$(cat "/sys/class/net/$nic/ifindex")
if tc qdisc show dev "$nic" root | grep -q 'netem fa17:'; then tc qdisc del dev "$nic" root; fi
if [ -n "$away" ]; then tc qdisc add dev "$nic" root handle fa17: netem $away; fi
if [ -e "/sys/class/net/$ifb" ]; then tc qdisc del dev "$nic" ingress; ip link del "$ifb"; fi
if [ -n "$here" ]; then
    ip link add "$ifb" type ifb
    ip link set "$ifb" up
    tc qdisc add dev "$ifb" root handle fa17: netem $here
    tc qdisc add dev "$nic" handle ffff: ingress
    aside="action mirred egress redirect dev $ifb"
    for mac in $shared; do
        tc filter add dev "$nic" parent ffff: prio 1 flower dst_mac "$mac" action skbedit ptype host pipe $aside
    done
    tc filter add dev "$nic" parent ffff: prio 2 matchall $aside
fi
"""
_NETEM_SEEN = """
tc -json qdisc show dev "$1" root
ifb=labctl$(cat "/sys/class/net/$1/ifindex")
if [ -e "/sys/class/net/$ifb" ]; then exec tc -json qdisc show dev "$ifb" root; fi
"""


class ImpairmentWay(OnNode):
    """All impairments of a NIC together, as one netem in each direction: the marks say which there are."""

    def __init__(self, fault: Impairment, ground: Ground, before: Mapping[str, str]) -> None:
        super().__init__(ground, fault.node, before)
        self._fault = fault
        self._nic(fault.nic)
        if not any(_figures(fault).values()):
            raise InputError(f"{fault.kind} of {fault.node} of nothing is no fault")

    def _others(self) -> list[Impairment]:
        domain = self._hypervisor.domain(self._domain)
        marked = [load(mark.fault) for mark in (domain.faults if domain else ())]
        mine = [f for f in marked if isinstance(f, Impairment) and f.nic == self._fault.nic]
        return [f for f in mine if f.kind != self._fault.kind]

    def _set(self, faults: Sequence[Impairment]) -> None:
        away, here = (" ".join(netem_arguments(_towards(faults, way))) for way in (Direction.OUT, Direction.IN))
        self._do(_NETEM, self._fault.nic, away, here, " ".join(self._shared_macs()))

    def _shared_macs(self) -> list[str]:
        """The MACs of the clusters that the NIC serves."""
        clusters = self._ground.lab.clusters_of(self._node)
        mine = [c for c in clusters if any((m.node, m.nic) == (self._node, self._fault.nic) for m in c.members)]
        return [cluster_mac(c.mode, c.address.ip) for c in mine]

    def _seen(self, faults: Sequence[Impairment]) -> Seen:
        said = self._guest.succeed(["/bin/sh", "-c", _NETEM_SEEN, "sh", self._fault.nic])
        devices = [_kernel_figures(json.loads(line)) for line in said.splitlines() if line.strip()]
        seen = {Direction.OUT: devices[0] if devices else {}, Direction.IN: devices[1] if devices[1:] else {}}
        alike = all(_alike(seen[way], netem_figures(_towards(faults, way))) for way in seen)
        told = (
            f"{way}: {', '.join(f'{k} {v:g}' for k, v in figures.items())}" for way, figures in seen.items() if figures
        )
        return alike, f"{self._fault.nic}: {'; '.join(told) or 'no netem'}"

    def inject(self) -> None:
        self._set([*self._others(), self._fault])

    def in_effect(self) -> Seen:
        return self._seen([*self._others(), self._fault])

    def heal(self) -> None:
        self._await_agent()
        self._set(self._others())

    def healed(self) -> Seen:
        return self._seen(self._others())


def _towards(faults: Sequence[Impairment], way: Direction) -> list[Impairment]:
    return [f for f in faults if getattr(f, "direction", way) in {way, Direction.BOTH}]


# Where tc's JSON holds each figure.
_PLACES = {
    "delay": ("delay", "delay"),
    "loss": ("loss-random", "loss"),
    "duplicate": ("duplicate", "duplicate"),
    "reorder": ("reorder", "reorder"),
    "corrupt": ("corrupt", "corrupt"),
    "rate": ("rate", "rate"),
}


def _kernel_figures(queues: Sequence[Mapping[str, object]]) -> dict[str, float]:
    """The figures of the netem among a device's queues that is ours."""
    for queue in queues:
        options = queue.get("options")
        if queue.get("kind") == "netem" and queue.get("handle") == "fa17:" and isinstance(options, dict):
            found = {name: options.get(outer, {}).get(inner, 0) for name, (outer, inner) in _PLACES.items()}
            return {name: float(value) for name, value in found.items() if value}
    return {}


def _alike(seen: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    return seen.keys() == wanted.keys() and all(abs(seen[k] - v) <= 0.01 * v for k, v in wanted.items())


def _counted(listed: str) -> int:
    """The packets that the rules of a table have counted, from nft's JSON."""
    rules = (item["rule"] for item in json.loads(listed)["nftables"] if "rule" in item)
    return sum(e["counter"]["packets"] for rule in rules for e in rule["expr"] if "counter" in e)


class _Tables(OnNode):
    """Tables of our own in a node's packet filter, one per family, whose counters count what they drop."""

    def __init__(self, ground: Ground, node: str, fault: Fault, *families: str) -> None:
        super().__init__(ground, node, {})
        self._tables = {family: f"{family} labctl_fault_{slug(fault)}" for family in families}

    def load(self, chains: Mapping[str, str]) -> None:
        """Put the tables in place, anew if they are there; `chains` by family."""
        made = [f"table {self._tables[family]} {{\n{text}}}\n" for family, text in chains.items()]
        self._nft("".join([*self._removals(), *made]))

    def _removals(self) -> list[str]:
        # Added first, so that it is there to be deleted, whoever else heals it at the same time.
        return [f"add table {table}\ndelete table {table}\n" for table in self._tables.values()]

    def _nft(self, text: str) -> None:
        self._guest.succeed(["/usr/sbin/nft", "-f", "-"], stdin=text.encode())

    def dropped(self) -> int | None:
        """How many packets they have dropped; None when none is there."""
        listings = [
            self._guest.run(["/usr/sbin/nft", "--json", "list", "table", *table.split()])
            for table in self._tables.values()
        ]
        counts = [_counted(done.text) for done in listings if not done.exit_code]
        return sum(counts) if counts else None

    def remove(self) -> None:
        """Remove the tables; one that isn't there is fine."""
        self._await_agent()
        self._nft("".join(self._removals()))

    def reach(self, address: str) -> None:
        """Send something there; whether it arrives is not the question."""
        self._sh('ping -c 1 -W 1 "$1"', address)

    @property
    def address(self) -> str:
        """The node's own."""
        return str(self._spec.address)


def _chain(hook: str, what: str) -> str:
    return f"chain in {{\ntype filter hook {hook} priority -400; policy accept;\n{what} counter drop\n}}\n"


class PartitionWay:
    """Frames are told by the MAC that they come from, so that answers from a virtual address are cut as well.

    In the hooks of IP and ARP, before anything else looks: frames that come back from an impaired NIC's queue have been
    past the ingress hook.
    """

    def __init__(self, fault: Partition, ground: Ground, _before: Mapping[str, str]) -> None:
        named = [name for group in fault.groups for name in group]
        if len(fault.groups) < 2 or len(named) != len(set(named)):
            raise InputError(
                f"partition {fault.target}: expected two groups or more, each node in one", hint="m1/m2,m3"
            )
        families = ("inet",) if fault.heartbeat_only else ("inet", "arp")
        everybody = {name: _Tables(ground, name, fault, *families) for name in named}
        self._fault, self._ground = fault, ground
        self._deaf = {name: everybody[name] for name in fault.nodes}
        self._nodes = everybody

    def before(self) -> dict[str, str]:
        return {}

    def inject(self) -> None:
        for name, tables in self._deaf.items():
            tables.load(self._chains(self._fault.unheard(name)))

    def _chains(self, unheard: Sequence[str]) -> dict[str, str]:
        macs = ", ".join(nic.mac for name in unheard for nic in self._ground.lab.node(name).nics)
        what = f"ether saddr {{ {macs} }}"
        if self._fault.heartbeat_only:
            return {"inet": _chain("prerouting", f"{what} meta l4proto 112")}
        return {"inet": _chain("prerouting", what), "arp": _chain("input", what)}

    def in_effect(self) -> Seen:
        for name, table in self._deaf.items():
            if not self._fault.heartbeat_only:
                self._nodes[self._fault.unheard(name)[0]].reach(table.address)
        counts = {name: table.dropped() for name, table in self._deaf.items()}
        told = ", ".join(
            f"{name} dropped {count if count is not None else 'nothing'}" for name, count in counts.items()
        )
        return all(counts.values()), told

    def heal(self) -> None:
        for table in self._deaf.values():
            table.remove()

    def healed(self) -> Seen:
        left = [name for name, table in self._deaf.items() if table.dropped() is not None]
        return not left, f"{', '.join(left)} still cut off" if left else "nobody drops anything"


_NO_DNS = """
chain out {
type filter hook output priority -400; policy accept;
meta l4proto { tcp, udp } th dport 53 counter drop
}
chain in {
type filter hook input priority -400; policy accept;
meta l4proto { tcp, udp } th dport 53 counter drop
}
"""
_ASK = "import socket,sys; socket.socket(type=socket.SOCK_DGRAM).sendto(b'?', (sys.argv[1], 53))"


class DnsOutageWay(OnNode):
    def __init__(self, fault: DnsOutage, ground: Ground, before: Mapping[str, str]) -> None:
        super().__init__(ground, fault.node, before)
        self._table = _Tables(ground, fault.node, fault, "inet")

    def inject(self) -> None:
        self._table.load({"inet": _NO_DNS})

    def in_effect(self) -> Seen:
        self._guest.run(["/usr/bin/python3", "-I", "-S", "-c", _ASK, self._table.address])
        count = self._table.dropped()
        return bool(count), f"{count or 'no'} packets to port 53 were dropped"

    def heal(self) -> None:
        self._table.remove()

    def healed(self) -> Seen:
        there = self._table.dropped() is not None
        return not there, "port 53 is cut" if there else "nothing drops packets to port 53"

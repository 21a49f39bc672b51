"""Four ways to put two web servers behind one name, broken in the same three ways under the same load.

    .venv/bin/python benchmarks/comparison.py [--scheme NAME ...] [--rate HZ] [--lab PREFIX]

The shipped topologies `micro`, `micro-moving-address`, `micro-dns-round-robin` and `micro-haproxy`, on tiny guests; run
as root on a host that does nothing else. A user's program asks at a fixed rate from 60 addresses, looks the name up
each time and tries one address after the other, each for 2 s. Meanwhile a server

  is stopped on purpose, as the scheme has it done, with connections held open,
  loses its service while its host lives, for 12 s,
  loses power, and boots again.

Of HAProxy the balancer itself breaks, too. A request was hit when it failed, or when its user waited for more than
0.9 s, as after a lost SYN. The gap reaches from the start of the first one to when the last one was answered or given
up. Labs of names of their own (`bench-...`) are made and removed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from labctl.clock import Deadline, wait_until
from labctl.cluster.control import Control, Order, give
from labctl.faults import PowerOff, injected
from labctl.history import HistoryWriter
from labctl.hypervisor.seam import Hypervisor
from labctl.lab import Lab, open_hypervisor
from labctl.topology.load import find_topology, read_text

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/micro"))
from users import Asked, Held, Load, User

SERVERS = ("m1", "m2")
NAME, CLUSTER, MOVING, BALANCER = "web.micro.test", "10.78.0.20", "10.78.255.254", "10.78.0.20"
HELD_FIRST, HELD = "10.78.1.101", 20
CALM_S, DEAD_S = 5.0, 12.0
HEALTH = "affinity: single, health: {command: pgrep -x nginx, interval_s: 1}}"


# -- the schemes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scheme:
    """A way to put two servers behind one name.

    Attributes:
        host: what users ask for.
        victim: the node that breaks, at that moment.
        held: where connections are held open, given the node that is then stopped on purpose.
        stop, start: how that node is taken out on purpose, and back.
        service: what dies on it while its host lives.
        change: of the topology's text.
    """

    title: str
    topology: str
    host: str
    victim: Callable[[Lab], str]
    held: Callable[[Lab, str], str]
    stop: Callable[[Lab, str], None]
    start: Callable[[Lab, str], None]
    service: str = "nginx"
    change: tuple[str, str] = ("", "")


def _told(control: Control) -> Callable[[Lab, str], None]:
    def tell(lab: Lab, node: str) -> None:
        cluster = lab.cluster()
        give(cluster, lab.members(cluster), Order(control, (node,)))

    return tell


def _turned(word: str, service: str) -> Callable[[Lab, str], None]:
    def turn(lab: Lab, node: str) -> None:
        lab.guest(node).succeed(["sv", "-w", "20", word, f"/etc/labctl/service/{service}"], within_s=30)

    return turn


def _set_server(state: str) -> Callable[[Lab, str], None]:
    says = "import socket, sys; s = socket.socket(1); s.connect('/run/haproxy.sock'); s.send(sys.argv[1].encode())"

    def tell(lab: Lab, node: str) -> None:
        lab.guest("balancer").succeed(["python3", "-c", says, f"set server web/{node} state {state}\n"])

    return tell


def _named(*, without: bool) -> Callable[[Lab, str], None]:
    def name(lab: Lab, node: str) -> None:
        nodes = [n for n in lab.spec.nodes if "web-server" in n.roles and not (without and n.name == node)]
        known = json.dumps({NAME: [str(n.address) for n in nodes]})
        lab.guest("client").write_file("/etc/labctl/names.json", known.encode())

    return name


def _holder(lab: Lab) -> str:
    """Who has the moving address."""

    def one() -> tuple[str | None, str]:
        has = f"ip -brief address | grep -q '{MOVING}/'"
        found = [n for n in SERVERS if lab.guest(n).run(["/bin/sh", "-c", has]).exit_code == 0]
        return (found[0] if len(found) == 1 else None), f"{MOVING} is at {found or 'nobody'}"

    return wait_until("one node has the address", one, Deadline.within(60), every_s=0.5)


def _m1(_lab: Lab) -> str:
    return "m1"


def _balancer(_lab: Lab) -> str:
    return "balancer"


def _at(address: str) -> Callable[[Lab, str], str]:
    return lambda _lab, _node: address


def _own_address(lab: Lab, node: str) -> str:
    return str(lab.spec.node(node).address)


_CLUSTERED = (_m1, _at(CLUSTER), _told(Control.DRAIN_ALL), _told(Control.START))
SCHEMES = {
    "cluster": Scheme("this cluster", "micro", NAME, *_CLUSTERED),
    "cluster-health": Scheme(
        "this cluster, health check", "micro", NAME, *_CLUSTERED, change=("affinity: single}", HEALTH)
    ),
    "moving-address": Scheme(
        "moving address (VRRP)", "micro-moving-address", MOVING, _holder, _at(MOVING),
        _turned("down", "keepalived"), _turned("up", "keepalived"),
    ),
    "dns-round-robin": Scheme(
        "DNS round robin", "micro-dns-round-robin", NAME, _m1, _own_address, _named(without=True), _named(without=False)
    ),
    "haproxy": Scheme(
        "HAProxy, a server", "micro-haproxy", BALANCER, _m1, _at(BALANCER), _set_server("drain"), _set_server("ready")
    ),
    "haproxy-itself": Scheme(
        "HAProxy, itself", "micro-haproxy", BALANCER, _balancer, _at(BALANCER),
        _turned("down", "haproxy"), _turned("up", "haproxy"), service="haproxy",
    ),
}  # fmt: skip


# -- what happens to them ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What users saw of a scheme."""

    title: str
    kept: int
    asked: list[Asked]

    def row(self) -> str:
        cells = [self._of(("power-off", "boots")), self._of(("service", "mended")), self._of(("stopped", "back"))]
        return f"{self.title:28} | {' | '.join(cells)} {self.kept:3} of {HELD}"

    def _of(self, phases: tuple[str, ...]) -> str:
        asked = [a for a in self.asked if a.phase in phases]
        failed, first = (sum(map(test, asked)) for test in (lambda a: not a.who, lambda a: a.failed_tries > 0))
        return f"{_gap(asked):>6} {failed:4} {first:4} of {len(asked):3} {_longest(asked):5.1f}"


def _gap(asked: list[Asked]) -> str:
    hit = [a for a in asked if a.hit]
    if not hit:
        return "none"
    return f"{max(a.at_s + a.waited_s for a in hit) - hit[0].at_s:.1f}"


def _longest(asked: Iterable[Asked]) -> float:
    return max((a.waited_s for a in asked), default=0.0)


@contextmanager
def lab_of(scheme: Scheme, hypervisor: Hypervisor, prefix: str) -> Iterator[Lab]:
    """The lab, up; gone in the end."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"{scheme.topology}.yaml")
        file.write_text(read_text(find_topology(scheme.topology)).replace(*scheme.change))
        lab = Lab.from_topology(file, hypervisor=hypervisor, name=f"{prefix}-{scheme.topology}")
        try:
            lab.up()
            yield lab
        finally:
            lab.destroy()


def run(scheme: Scheme, lab: Lab, folder: Path, rate_hz: float) -> Outcome:
    """Break it in all three ways; returns what users saw."""
    clock = lab.clock
    with User(lab.guest("client"), scheme.host, Load("10.78.1.1", 60, rate_hz, patience_s=2.0)) as user:
        clock.sleep(CALM_S)
        kept = _stopped_on_purpose(scheme, lab, user)
        user.phase("calm")
        clock.sleep(CALM_S)
        victim = scheme.victim(lab)
        user.phase("service")
        _turned("down", scheme.service)(lab, victim)
        clock.sleep(DEAD_S)
        user.phase("mended")
        _turned("up", scheme.service)(lab, victim)
        clock.sleep(CALM_S)
        user.phase("calm")
        victim = scheme.victim(lab)
        with HistoryWriter(folder / f"{scheme.topology}.jsonl") as history:
            user.phase("power-off")
            with injected(PowerOff(victim), lab.ground(), history):
                clock.sleep(DEAD_S)
                user.phase("boots")
        lab.wait_converged()
        clock.sleep(CALM_S)
        return Outcome(scheme.title, kept, user.asked())


def _stopped_on_purpose(scheme: Scheme, lab: Lab, user: User) -> int:
    """Take a node out and back while connections are held; returns how many of them were kept."""
    victim = scheme.victim(lab)
    with Held(lab.guest("client"), scheme.held(lab, victim), HELD_FIRST, HELD) as held:
        if len(held.answered(SERVERS)) < HELD:
            raise SystemExit(f"{scheme.title}: not all of {HELD} connections could be opened")
        user.phase("stopped")
        scheme.stop(lab, victim)
        lab.clock.sleep(CALM_S)
        kept = held.answered(SERVERS)
        user.phase("back")
        scheme.start(lab, victim)
        lab.clock.sleep(CALM_S)
        return len(kept & held.answered(SERVERS))


COLUMNS = f"{'gap':>6} fail  1st of all  wait"
HEAD = f"""
{"":28} | {"loses power, boots again":{len(COLUMNS)}} | {"service dead, host alive":{len(COLUMNS)}} | stopped on purpose
{"":28} | {COLUMNS} | {COLUMNS} | {COLUMNS} kept"""
NOTES = f"""
gap: seconds from the first hit request to the end of the last one; fail: nobody answered; 1st: the first address tried
failed; of all: requests; wait: the longest, in seconds; kept: of {HELD} connections held open. A dead service is mended
after {DEAD_S:.0f} s, a host without power after as long."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scheme", nargs="+", choices=SCHEMES, default=list(SCHEMES), metavar="NAME")
    parser.add_argument("--rate", type=float, default=8.0, help="requests a second; 8 by default")
    parser.add_argument("--lab", default="bench", help="what the labs' names begin with")
    options = parser.parse_args()
    outcomes = []
    with (
        open_hypervisor(os.environ.get("LABCTL_URI", "qemu:///system")) as hypervisor,
        tempfile.TemporaryDirectory() as folder,
    ):
        facts = hypervisor.host()
        load = f"load {os.getloadavg()[0]:.1f}, {options.rate:g} requests a second"
        print(f"{platform.platform()}, {facts.cpus} CPUs, {load}")
        for name in options.scheme:
            with lab_of(SCHEMES[name], hypervisor, options.lab) as lab:
                outcome = run(SCHEMES[name], lab, Path(folder), options.rate)
            calm = [a.waited_s for a in outcome.asked if a.phase == "calm"]
            print(f"  {name}: waited {statistics.median(calm):.2f} s while all was well", flush=True)
            print(f"  {outcome.row()}", flush=True)
            outcomes.append(outcome)
    print(HEAD)
    print("\n".join(outcome.row() for outcome in outcomes))
    print(NOTES)


if __name__ == "__main__":
    main()

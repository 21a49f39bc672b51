"""How evenly a cluster spreads its clients, and what moves when a member dies: every datagram through real kernels.

    .venv/bin/python benchmarks/spread.py [--clients N ...] [--members N ...] [--draws N] [--only PART ...]

Each member is a network namespace with the packet filter that labctl renders, as in tests/golden/wire.py, and gets
every client's datagram; needs root and nft, no guest. Clients are drawn from all of 10.0.0.0/8, with random ports, or
are the 254 of one network. Parts:

    spread   shares over so many members by affinity, and by load weights 1:3
    death    shares of the survivors after one of N >= 3 has died, and whose clients moved
    many     32 members agree when all are up, one has died, one drains, and both are back
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labctl.cluster.control import Control, orders
from labctl.topology.load import load_topology
from labctl.topology.resolve import resolve
from labctl.topology.spec import Accelerator, LabSpec, RuleProtocol

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/golden"))
from wire import Client, Cluster

MANY = 32
AT_ONCE = 2000  # clients whose datagrams wait in the members' sockets together
RULES = {
    1000: ("affinity none", "affinity: none"),
    2000: ("affinity single", "affinity: single"),
    3000: ("affinity network", "affinity: network"),
    4000: ("weights 1:3:1:3…", "weights: {weights}"),
}
NEIGHBOURS = [(f"10.78.1.{n}", 40000 + n) for n in range(1, 255)]
HEAD = """
lab: spread
domain: spread.test
image: micro
networks: {lan: {subnet: 10.77.0.0/16}}
"""
CLUSTER = """
clusters:
  web:
    network: lan
    address: 10.77.9.20
    fqdn: web.spread.test
    heartbeat: {period_ms: 10000, tolerance: 100}
"""


def spec_of(count: int) -> LabSpec:
    """A lab whose cluster has so many members, and a rule for each row of `RULES`."""
    numbers = range(1, count + 1)
    nodes = "".join(f"  n{n}: {{nics: {{cluster: {{network: lan, address: 10.77.0.{n}}}}}}}\n" for n in numbers)
    members = ", ".join(f"{{node: n{n}, nic: cluster, priority: {n}}}" for n in numbers)
    weights = ", ".join(f"n{n}: {weight_of(n)}" for n in numbers)
    rules = "".join(
        f"      - {{ports: {port}, protocol: udp, {settings.format(weights=f'{{{weights}}}')}}}\n"
        for port, (_title, settings) in RULES.items()
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "spread.yaml")
        file.write_text(f"{HEAD}nodes:\n{nodes}{CLUSTER}    members: [{members}]\n    port_rules:\n{rules}")
        return resolve(load_topology(file), lab=None, accelerator=Accelerator.TCG)


def weight_of(host: int) -> int:
    return 1 if host % 2 else 3


@contextmanager
def members(count: int) -> Iterator[Cluster]:
    """So many members that see each other."""
    made = Cluster(spec_of(count))
    try:
        for member in made.members.values():
            for port in RULES:
                member.serve(RuleProtocol.UDP, port)
            member.takes_for_alive(*made.members)
        yield made
    finally:
        made.close()


def drawn(count: int, seed: int) -> list[Client]:
    """Different clients."""
    draw, found = random.Random(seed), {}  # noqa: S311 -- the same clients each time
    while len(found) < count:
        address = f"10.{draw.randrange(256)}.{draw.randrange(256)}.{draw.randrange(1, 255)}"
        found.setdefault(address, draw.randrange(1024, 65536))
    return list(found.items())


def owners(made: Cluster, clients: list[Client], port: int, *dead: int) -> dict[Client, int]:
    """Which living member has taken each client's datagram: exactly one of them each."""
    found: dict[Client, int] = {}
    for begin in range(0, len(clients), AT_ONCE):
        for client, who in made.owners(clients[begin : begin + AT_ONCE], port).items():
            living = [host for host in who if host not in dead]
            if len(living) != 1:
                raise SystemExit(f"{client} on port {port} was taken by {living or 'nobody'}")
            found[client] = living[0]
    return found


def worst(taken: dict[Client, int], due: dict[int, float]) -> float:
    """How far the member that is furthest from its due share is off, in points of a hundred."""
    counts = Counter(taken.values())
    return max(abs(100 * counts[host] / len(taken) - 100 * share) for host, share in due.items())


def due_shares(count: int, port: int) -> dict[int, float]:
    weights = {host: weight_of(host) if port == 4000 else 1 for host in range(1, count + 1)}
    return {host: weight / sum(weights.values()) for host, weight in weights.items()}


def spread(options: argparse.Namespace) -> None:
    print("\nspread: how far the member furthest from its due share is off, in percent of all clients")
    print(f"{'':18} members  clients  draws  median   most")
    for count in options.members:
        with members(count) as made:
            for port, (title, _settings) in RULES.items():
                for size in options.clients:
                    draws = options.draws if size < AT_ONCE else 1
                    due = due_shares(count, port)
                    off = [worst(owners(made, drawn(size, seed), port), due) for seed in range(draws)]
                    middle = statistics.median(off)
                    print(f"{title:18} {count:7} {size:8} {draws:6} {middle:6.2f}% {max(off):5.2f}%", flush=True)
                off_by = worst(owners(made, NEIGHBOURS, port), due_shares(count, port))
                print(f"{title:18} {count:7}    a /24      1 {off_by:6.2f}%", flush=True)


def death(options: argparse.Namespace) -> None:
    print("\ndeath of member 1: what each survivor took over, least and most, of an even part of its clients")
    size = max(options.clients)
    clients = drawn(size, 1)
    for count in (n for n in options.members if n >= 3):
        with members(count) as made:
            before = owners(made, clients, 2000)
            made.dies(1)
            after = owners(made, clients, 2000, 1)
        moved = [client for client in clients if before[client] != after[client]]
        wrong = sum(before[client] != 1 for client in moved)
        took = Counter(after[client] for client in moved)
        part = len(moved) / (count - 1)
        shares = Counter(after.values())
        off = [100 * (n * (count - 1) / size - 1) for n in shares.values()]
        print(
            f"{count} members, {size} clients: {len(moved)} moved, {wrong} of them not the dead member's; took over "
            f"{100 * min(took.values()) / part:.0f} to {100 * max(took.values()) / part:.0f} %; "
            f"survivors' shares off by {min(off):+.1f} to {max(off):+.1f} %",
            flush=True,
        )


def many(_options: argparse.Namespace) -> None:
    print()
    made = Cluster(spec_of(MANY))
    everyone, dead, drained = set(made.members), 7, 9

    def timed(what: str, alive: set[int]) -> None:
        silent = everyone - alive - {drained}
        began_s = time.monotonic()
        made.beat(*silent)
        made.beat(*silent)
        took_s = time.monotonic() - began_s
        seen = [member.holds("alive") for host, member in made.members.items() if host not in silent]
        if seen != [alive] * len(seen):
            raise SystemExit(f"{what}: not all of {len(seen)} members see {sorted(alive)}")
        print(f"{MANY} members, {what}: all agree after two heartbeats of each; sent and delivered in {took_s:.2f} s")

    def tell(control: Control) -> None:
        member = made[drained]
        member.nft(orders(member.cluster, member.me, control, now_s=time.time()))

    try:
        timed("up", everyone)
        made.dies(dead)
        timed(f"{dead} dead", everyone - {dead})
        tell(Control.DRAIN_ALL)
        timed(f"{drained} drains", everyone - {dead, drained})
        tell(Control.START)
        timed(f"{dead} and {drained} back", everyone)
    finally:
        made.close()


PARTS = {"spread": spread, "death": death, "many": many}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[250, 60_000])
    parser.add_argument("--members", type=int, nargs="+", default=[2, 3, 5])
    parser.add_argument("--draws", type=int, default=20, help="of clients, where they are few; 20 by default")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    options = parser.parse_args()
    print(f"{platform.platform()}")
    for part in options.only:
        PARTS[part](options)


if __name__ == "__main__":
    main()

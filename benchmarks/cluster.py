"""What a cluster does when members fail, are many, or are added; on tiny guests, as root on a host that is else idle.

    .venv/bin/python benchmarks/cluster.py [--only PART ...] [--samples N] [--heartbeat PERIODxTOLERANCE ...]
                                           [--members N] [--lab PREFIX]

Parts:

    gap        a member of `micro` loses power while its clients connect 25 times a second: for how long they fail
    flooding   frames of 100 requests that a node sees that is no member, by mode
    members    many members: up, converged, one killed, one drained, one back, with the time and memory that it takes
    capacity   datagrams a second that 1, 2 and 3 members answer, each of which has work of 0.1 s with every one; it
               waits for that time, as guests that share the host's cores can't add CPU to each other

A gap is an interval, which only faster sampling narrows. Labs of names of their own (`bench-...`) are made and removed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from labctl.checks.outage import Outage, spanning
from labctl.clock import Deadline, SystemClock, wait_until
from labctl.cluster.control import Control, Order, give
from labctl.cluster.membership import wait_converged, wait_settled
from labctl.cluster.ownership import owner_of
from labctl.errors import GuestError
from labctl.history import HistoryWriter
from labctl.hypervisor.seam import Hypervisor
from labctl.lab import Lab, open_hypervisor
from labctl.probes.probe import Kind, Probe, RunningProbe
from labctl.render.names import domain_name
from labctl.topology.load import find_topology, read_text

TESTS = Path(__file__).parent.parent / "tests/micro"
VICTIM = "m1"
RATE_HZ, TIMEOUT_S = 25.0, 0.4
WARM_UP_S, AFTER_S = 4.0, 3.0


class Bench:
    """Makes labs from a topology's text, and removes them."""

    def __init__(self, hypervisor: Hypervisor, folder: Path, options: argparse.Namespace) -> None:
        self.hypervisor, self.folder, self.options = hypervisor, folder, options

    @contextmanager
    def lab(self, name: str, text: str, *, keep: bool = True) -> Iterator[Lab]:
        """A lab that is up; `keep` saves its ready state."""
        file = self.folder / f"{name}.yaml"
        file.write_text(text)
        lab = Lab.from_topology(file, hypervisor=self.hypervisor, name=f"{self.options.lab}-{name}")
        try:
            lab.up(keep=keep)
            yield lab
        finally:
            lab.destroy()


# -- the gap after a member's death ------------------------------------------------------------------------------------


def gap(bench: Bench) -> None:
    micro, table = read_text(find_topology("micro")), []
    for heartbeat in bench.options.heartbeat:
        period_ms, tolerance = map(int, heartbeat.split("x"))
        timed = f"mode: unicast\n    heartbeat: {{period_ms: {period_ms}, tolerance: {tolerance}}}"
        found: list[Outage] = []
        with bench.lab(f"gap-{heartbeat}", micro.replace("mode: unicast", timed)) as lab:
            for number in range(bench.options.samples):
                outage = _gap_of(lab, bench.folder / f"{heartbeat}-{number}.jsonl")
                print(f"  {heartbeat}: {outage or 'no outage was seen'}", flush=True)
                found += [outage] if outage else []
                lab.reset()
        least, most = [o.shortest_s for o in found], [o.longest_s for o in found]
        if found:
            middle = f"{statistics.median(least):.2f} - {statistics.median(most):.2f}"
            bound_s = period_ms * tolerance / 1000
            table.append(
                f"{heartbeat:>9} {len(found):8}  {middle:>12}  {min(least):8.2f} {max(most):8.2f}  {bound_s:10.2f}"
            )
    print("\nheartbeat  samples  median (s)    at least  at most  period x tolerance")
    print("\n".join(table))
    print("Windows NLB is documented to take 7 to 8 s with its default, 1000 ms x 5.")


def _gap_of(lab: Lab, file: Path) -> Outage | None:
    """What the victim's clients saw of its power-off; None if they saw nothing."""
    cluster, clock = lab.spec.clusters[0], SystemClock()
    theirs = tuple(_clients_of(lab, VICTIM))
    probe = Probe("web", Kind.TCP, str(cluster.address.ip), 80, sources=theirs, rate_hz=RATE_HZ, timeout_s=TIMEOUT_S)
    with HistoryWriter(file) as history, RunningProbe(probe, lab.guest("client"), history) as running:
        clock.sleep(WARM_UP_S)
        off_s = clock.now_s()
        lab.hypervisor.power_off(domain_name(lab.name, VICTIM))
        clock.sleep(cluster.heartbeat.down_after_s + AFTER_S)
        running.stop()
        return spanning(history.read().samples("web"), off_s)


def _clients_of(lab: Lab, node: str) -> list[str]:
    """The clients that a member owns while all serve."""
    cluster = lab.spec.clusters[0]
    hosts = {m.node: m.priority for m in cluster.members}
    everyone, (rule,) = set(hosts.values()), cluster.port_rules
    sources = lab.spec.node("client").nics[0].extra_addresses
    return [str(s) for s in sources if owner_of(cluster, rule, s, 0, lambda _rule: everyone) == hosts[node]]


# -- who else sees the frames ------------------------------------------------------------------------------------------

WATCH = """
table netdev seen {{
    chain {nic} {{
        type filter hook ingress device "{nic}" priority 0; policy accept;
        ip daddr {address} counter
    }}
}}
"""
REQUESTS = 100


def flooding(bench: Bench) -> None:
    with bench.lab("modes", (TESTS / "modes.yaml").read_text()) as lab:
        print("\nframes of the same requests, as seen by:")
        time.sleep(60)  # until the bridge goes by what the members of the cluster in IGMP mode have told it
        for cluster in lab.spec.clusters:
            member = cluster.members[0]
            watched = {"the bystander": ("bystander", cluster.network), "a member": (member.node, member.nic)}
            for node, nic in watched.values():
                lab.guest(node).succeed(["ip", "link", "set", nic, "promisc", "on"])
                script = WATCH.format(nic=nic, address=cluster.address.ip)
                lab.guest(node).succeed(["nft", "--file", "-"], stdin=script.encode())
            ask = (
                f"for n in $(seq {REQUESTS}); do curl -sS -o /dev/null --max-time 10 http://{cluster.address.ip}/; done"
            )
            lab.guest("client").shell(ask, within_s=180)
            seen = {who: _counted(lab, *where) for who, where in watched.items()}
            told = ", ".join(f"{who} {count}" for who, count in seen.items())
            print(f"  {cluster.mode:10} {REQUESTS} requests: {told}", flush=True)


def _counted(lab: Lab, node: str, nic: str) -> int:
    guest = lab.guest(node)
    said = guest.succeed(["nft", "list", "chain", "netdev", "seen", nic])
    guest.succeed(["nft", "delete", "table", "netdev", "seen"])
    found = re.search(r"counter packets (\d+)", said)
    return int(found[1]) if found else 0


# -- many members ------------------------------------------------------------------------------------------------------

MANY = """
lab: many
domain: many.test
image: micro
networks: {{lan: {{subnet: 10.78.0.0/16}}}}
nodes:
{nodes}
clusters:
  web:
    network: lan
    address: 10.78.0.200
    fqdn: web.many.test
    heartbeat: {{period_ms: {period_ms}, tolerance: {tolerance}}}
    members:
{members}
"""


def members(bench: Bench) -> None:
    count, numbers = bench.options.members, range(1, bench.options.members + 1)
    period_ms, tolerance = map(int, bench.options.members_heartbeat.split("x"))
    nodes = "\n".join(
        f"  m{n}: {{memory_mib: {bench.options.memory}, nics: {{only: {{network: lan, address: 10.78.0.{n}}}}}}}"
        for n in numbers
    )
    listed = "\n".join(f"      - {{node: m{n}, nic: only, priority: {n}}}" for n in numbers)
    free_mib = _free_mib()
    print(f"\n{count} members with {bench.options.memory} MiB each, heartbeat {period_ms} ms x {tolerance}")
    began_s = time.monotonic()
    text = MANY.format(nodes=nodes, members=listed, period_ms=period_ms, tolerance=tolerance)
    with bench.lab("many", text, keep=False) as lab:
        cluster = lab.cluster()
        guests = lab.members(cluster)

        def timed(what: str, wait: Callable[[], object]) -> None:
            nonlocal began_s
            wait()
            print(f"  {what} after {time.monotonic() - began_s:.1f} s", flush=True)
            began_s = time.monotonic()

        def settled() -> object:
            return wait_settled(cluster, guests, Deadline.within(300))

        timed("up and converged", lambda: wait_converged(cluster, guests, Deadline.within(300)))
        print(f"  memory that is not available any more: {free_mib - _free_mib()} MiB; {_in_guest(lab, 'm1')}")
        lab.hypervisor.power_off(domain_name(lab.name, "m2"))
        timed("one lost power, the others agree", settled)
        began_s = time.monotonic()
        give(cluster, guests, Order(Control.DRAIN_ALL, ("m3",)))
        timed("one told to drain, the others agree", settled)
        give(cluster, guests, Order(Control.START, ("m3",)))
        timed("it starts again, all agree", settled)
        lab.up(keep=False)
        timed(
            "the dead one has booted, all have converged", lambda: wait_converged(cluster, guests, Deadline.within(300))
        )


def _free_mib() -> int:
    found = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
    return int(found[1]) // 1024 if found else 0


def _in_guest(lab: Lab, node: str) -> str:
    return lab.guest(node).shell('free -m | awk \'/^Mem/ {print "of " $2 " MiB in a guest " $7 " are available"}\'')


# -- capacity ----------------------------------------------------------------------------------------------------------

WORK_S, OFFERED_HZ, LOAD_S, PORT, FOLDER = 0.1, 50, 15, 7, "/run/load"


def capacity(bench: Bench) -> None:
    with bench.lab("capacity", (TESTS / "three.yaml").read_text()) as lab:
        cluster = lab.cluster()
        names = [m.node for m in cluster.members]
        for node in names:
            guest = lab.guest(node)
            guest.write_file("/root/work.py", (TESTS / "guest/work.py").read_bytes())
            arguments = f"{cluster.address.ip} {PORT} {node} {WORK_S}"
            guest.shell(f"setsid python3 /root/work.py {arguments} </dev/null >/dev/null 2>&1 &")
        wait_until("the servers listen", lambda: (_all_listen(lab, names), ""), Deadline.within(60), every_s=0.5)
        print(f"\n{OFFERED_HZ} datagrams a second from 60 clients, {WORK_S:g} s of work with each, for {LOAD_S} s")
        for count in range(1, len(names) + 1):
            give(cluster, lab.members(cluster), Order(Control.STOP, tuple(names[count:])))
            give(cluster, lab.members(cluster), Order(Control.START, tuple(names[:count])))
            wait_settled(cluster, lab.members(cluster), Deadline.within(60))
            print(f"  {count} of {len(names)} members: {_answered(lab):.1f} answers a second", flush=True)


def _all_listen(lab: Lab, nodes: list[str]) -> bool | None:
    listening = [lab.guest(n).run(["/bin/sh", "-c", f"ss -Huln 'sport = {PORT}' | grep -q ."]) for n in nodes]
    return True if all(ran.exit_code == 0 for ran in listening) else None


def _answered(lab: Lab) -> float:
    """Answers a second to the whole load."""
    client, address = lab.guest("client"), lab.cluster().address.ip
    client.shell(f"rm -rf {FOLDER}; mkdir {FOLDER}; echo -n load >{FOLDER}/phase")
    client.write_file(f"{FOLDER}/sample.py", (TESTS / "guest/sample.py").read_bytes())
    arguments = f"{address} {PORT} 10.78.1.1 60 {OFFERED_HZ} {FOLDER}"
    client.shell(f"setsid python3 {FOLDER}/sample.py {arguments} >{FOLDER}/log 2>&1 </dev/null &")
    lab.clock.sleep(LOAD_S)
    client.shell(f"touch {FOLDER}/end")

    def there() -> tuple[bytes | None, str]:
        try:
            return client.read_file(f"{FOLDER}/samples"), ""
        except GuestError as not_yet:
            return None, str(not_yet)

    lines = wait_until("the samples", there, Deadline.within(60), every_s=0.5).decode().splitlines()
    samples = [json.loads(line) for line in lines]
    lasted_s = samples[-1][0] - samples[0][0]
    return sum(len(answers) for *_, answers in samples) / lasted_s


PARTS = {"gap": gap, "flooding": flooding, "members": members, "capacity": capacity}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--samples", type=int, default=5, help="of each gap; 5 by default")
    parser.add_argument("--heartbeat", nargs="+", default=["100x5", "500x5", "1000x5"], help="of the part `gap`")
    parser.add_argument("--members", type=int, default=32, help="of the part `members`; 32 by default")
    parser.add_argument("--members-heartbeat", default="1000x10", help="of that part; 1000x10 by default")
    parser.add_argument("--memory", type=int, default=128, help="of each of those, in MiB; 128 by default")
    parser.add_argument("--lab", default="bench", help="what the labs' names begin with")
    options = parser.parse_args()
    uri = os.environ.get("LABCTL_URI", "qemu:///system")
    with open_hypervisor(uri) as hypervisor, tempfile.TemporaryDirectory() as folder:
        facts = hypervisor.host()
        versions = ", ".join(
            f"{n} {'.'.join(map(str, v))}"
            for n, v in (("libvirt", facts.libvirt_version), ("QEMU", facts.hypervisor_version))
        )
        print(f"{platform.platform()}, {facts.cpus} CPUs, {versions}, load {os.getloadavg()[0]:.1f}")
        for part in options.only:
            PARTS[part](Bench(hypervisor, Path(folder), options))


if __name__ == "__main__":
    main()

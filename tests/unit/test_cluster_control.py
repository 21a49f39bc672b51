"""`labctl cluster`: what members are told, what they ignore, and what is shown, on the fake hypervisor.

What the packet filter makes of an order is tried in real kernels, in tests/golden/test_connections_on_wire.py; here a
stand-in of it lets the members see what they should.
"""
# ruff: noqa: F811 -- fixtures are imported from where they are

from __future__ import annotations

import re

import pytest
from lab_bench import Bench
from scripted_guest import Said, ScriptedGuest
from test_cli import Labctl, bench, file, run, small  # noqa: F401

ORDER = re.compile(r'(add|delete) element ip labctl_web (\w+) \{ (\w+)(?: comment "(.*)")?')
WEB_KEY = 0x60050  # TCP, port 80


class Filters:
    """The packet filters of both members, as far as orders and heartbeats go."""

    def __init__(self, bench: Bench) -> None:
        self.inside: dict[int, ScriptedGuest] = {1: bench.guests["m1"], 2: bench.guests["m2"]}
        self.told: dict[int, dict[str, dict[int, str]]] = {h: {"disabled": {}, "draining": {}} for h in self.inside}
        for host, guest in self.inside.items():
            guest.on(
                "/usr/sbin/nft", "--file", does=lambda _argv, stdin, host=host: self._ordered(host, stdin.decode())
            )
        self.beat()

    def _ordered(self, host: int, script: str) -> Said:
        for verb, place, key, comment in ORDER.findall(script):
            held = self.told[host].setdefault(place, {})
            if verb == "add":
                held.setdefault(int(key, 0), comment)
            else:
                del held[int(key, 0)]
        self.beat()
        return Said()

    def beat(self) -> None:
        """All members hear of all that each was told."""
        serving = [h for h, told in self.told.items() if not any(0 in keys for keys in told.values())]
        held = [h for h, told in self.told.items() if any(WEB_KEY in keys for keys in told.values())]
        for host, guest in self.inside.items():
            told = {place: _elements(self.told[host][place]) for place in ("disabled", "draining")}
            guest.sees(*serving, held_80_tcp=_elements(dict.fromkeys(held, "")), **told)

    def connections(self, host: int, *peers: str) -> None:
        lines = [f"ESTAB 0 0 10.9.0.200:80 {peer}\n" for peer in peers]
        self.inside[host].says("/usr/bin/ss", out="".join(lines).encode())


def _elements(marks: dict[int, str]) -> str:
    return ", ".join(f"{mark:#010x}" + (f' comment "{says}"' if says else "") for mark, says in marks.items())


@pytest.fixture
def filters(small: Bench) -> Filters:
    return Filters(small)


def states(run: Labctl) -> dict[str, str]:
    return {m["node"]: m["state"] for m in run("cluster", "query", "--json").json["members"]}


SERVES, STOPPED = {"m1": "converged", "m2": "converged"}, {"m1": "stopped", "m2": "converged"}

# -- members -----------------------------------------------------------------------------------------------------------


def test_a_stopped_member_is_out_until_it_is_started(filters: Filters, run: Labctl) -> None:
    assert run("cluster", "stop", "m1").code == 0
    assert states(run) == STOPPED
    assert run("cluster", "start", "m1").code == 0
    assert states(run) == SERVES


def test_status_shows_who_is_stopped(filters: Filters, run: Labctl) -> None:
    run("cluster", "stop", "m1")
    assert re.search(r"^m1 +1 +stopped +80/tcp: 0 *$", run("status").out, re.MULTILINE)


def test_without_a_name_all_members_are_meant(filters: Filters, run: Labctl) -> None:
    ran = run("cluster", "stop")
    assert ran.code == 0
    assert states(run) == {"m1": "stopped", "m2": "stopped"}


def test_a_suspended_member_ignores_all_but_resume_and_the_others_do_not(filters: Filters, run: Labctl) -> None:
    run("cluster", "suspend", "m1")
    for control in (("stop",), ("start",), ("drainstop",), ("drain", "80"), ("disable", "all"), ("enable", "80")):
        ran = run("cluster", *control, "m1")
        assert (ran.code, ran.err) == (3, "labctl: m1: it is suspended, and ignores all but resume\n")
    assert states(run) == {"m1": "suspended", "m2": "converged"}
    assert run("cluster", "stop").code == 3
    assert states(run) == {"m1": "suspended", "m2": "stopped"}


def test_a_resumed_member_is_stopped_as_with_nlb(filters: Filters, run: Labctl) -> None:
    run("cluster", "suspend", "m1")
    assert run("cluster", "resume", "m1").code == 0
    assert states(run) == STOPPED


def test_only_a_suspended_member_can_be_resumed(filters: Filters, run: Labctl) -> None:
    ran = run("cluster", "resume", "m1")
    assert (ran.code, ran.err) == (3, "labctl: m1: it is not suspended\n")


def test_a_member_that_is_off_is_said_to_be_and_the_others_are_told(
    filters: Filters, small: Bench, run: Labctl
) -> None:
    small.hypervisor.power_off("small.m2")
    filters.told[2]["disabled"][0] = "gone"
    filters.beat()
    ran = run("cluster", "stop")
    assert ran.code == 3
    assert "m2: agent of small.m2" in ran.err or "not connected" in ran.err
    assert states(run) == {"m1": "stopped", "m2": "unreachable"}


def test_members_whose_rules_differ_are_not_started(filters: Filters, run: Labctl) -> None:
    filters.inside[1].sees(1, 2, rules="0x0000cafe")
    ran = run("cluster", "start")
    assert ran.code == 3
    assert ran.err.startswith("labctl: cluster web: the members' rules differ: m1 has 0000cafe, m2 has 0000beef;")
    assert ran.err.endswith("  next: labctl up gives all of them the topology's\n")
    shown = run("cluster", "query").out
    assert "not converged" in shown
    assert "the members' rules differ: m1 0000cafe, m2 0000beef" in shown


def test_a_refused_member_is_not_started(filters: Filters, run: Labctl) -> None:
    filters.told[1]["disabled"][0] = "refused 1800000000 10.9.0.200 is answered by 52:54:00:11:22:33"
    filters.beat()
    ran = run("cluster", "start", "m1")
    assert ran.code == 3
    assert "m1: it was refused: 10.9.0.200 is answered by 52:54:00:11:22:33; labctl up tries again" in ran.err
    assert "m1: 10.9.0.200 is answered by 52:54:00:11:22:33\n" in run("cluster", "query").out


def test_a_member_that_is_none_is_bad_input(filters: Filters, run: Labctl) -> None:
    ran = run("cluster", "stop", "c")
    assert (ran.code, ran.err) == (2, "labctl: cluster web has no member c\n  next: its members: m1, m2\n")


# -- draining ----------------------------------------------------------------------------------------------------------


def test_a_drained_member_stops_once_its_connections_have_ended(filters: Filters, run: Labctl) -> None:
    left = [b"ESTAB 0 0 10.9.0.200:80 10.9.0.101:40000\n", b"TIME", b""]
    filters.inside[1].on("/usr/bin/ss", does=lambda _argv, _stdin: Said(out=left.pop(0) if left else b""))
    ran = run("cluster", "drainstop", "m1", "--timeout", "30")
    assert (ran.code, ran.err) == (0, "")
    assert states(run) == STOPPED


def test_connections_that_do_not_end_are_counted_and_the_member_goes_on_draining(filters: Filters, run: Labctl) -> None:
    filters.connections(1, "10.9.0.101:40000", "10.9.0.102:40000")
    ran = run("cluster", "drainstop", "m1", "--timeout", "0.1")
    assert ran.code == 4
    assert ran.err == (
        "labctl: m1: 2 connections left; it goes on draining\n"
        "  next: labctl cluster stop m1 ends them, labctl cluster start m1 takes it back\n"
    )
    assert states(run) == {"m1": "draining", "m2": "converged"}
    run("cluster", "start", "m1")
    assert states(run) == SERVES


# -- port rules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", ["drain", "disable"])
@pytest.mark.parametrize("port", ["80", "80/tcp", "all"])
def test_a_rule_is_held_and_enabled_by_its_port(filters: Filters, run: Labctl, control: str, port: str) -> None:
    assert run("cluster", control, port, "m1").code == 0
    member = run("cluster", "query", "--json").json["members"][0]
    assert member["told"] == {"80/tcp": {"drain": "draining", "disable": "disabled"}[control]}
    assert (member["state"], member["buckets_owned"]) == ("converged", {"80/tcp": 0})
    assert run("cluster", "enable", port).code == 0
    member = run("cluster", "query", "--json").json["members"][0]
    assert (member["told"], member["buckets_owned"]) == ({}, {"80/tcp": 30})


@pytest.mark.parametrize("port", ["81", "80/udp", "eighty", "80-81", ""])
def test_a_port_without_a_rule_is_bad_input_with_those_that_are(filters: Filters, run: Labctl, port: str) -> None:
    ran = run("cluster", "drain", port)
    assert (ran.code, ran.err) == (
        2,
        f"labctl: cluster web has no port rule {port}\n  next: all, or one of: 80/tcp\n",
    )


# -- showing -----------------------------------------------------------------------------------------------------------


def test_query_shows_state_sight_buckets_and_connections(filters: Filters, run: Labctl) -> None:
    filters.connections(2, "10.9.0.101:40000")
    shown = run("cluster", "query").out
    assert "cluster web: converged, web.small.test 10.9.0.200, unicast, heartbeat 500 ms x 5" in shown
    assert re.search(r"^m1 +1 +converged +- +m1, m2 +80/tcp: 30 +0 +- *$", shown, re.MULTILINE)
    assert re.search(r"^m2 +2 +converged +- +m1, m2 +80/tcp: 30 +80/tcp: 1 +- *$", shown, re.MULTILINE)


def test_params_shows_what_the_topology_says(filters: Filters, run: Labctl) -> None:
    shown = run("cluster", "params").out
    assert "MAC 02:bf:0a:09:00:c8" in shown
    assert re.search(r"^m2 +2 +eth0 +10\.9\.0\.2 +02:02:0a:09:00:c8 *$", shown, re.MULTILINE)
    assert re.search(r"^80/tcp +multiple +single +equal *$", shown, re.MULTILINE)
    assert re.search(r"^all others +single-host +- +m1, m2 *$", shown, re.MULTILINE)
    params = run("cluster", "params", "--json").json
    assert params["default_host"] == ["m1", "m2"]
    assert params["port_rules"][0]["rule"] == "80/tcp"


def test_display_shows_what_members_know_of_each_other(filters: Filters, run: Labctl) -> None:
    filters.inside[1].sees(
        1,
        2,
        joined="0x00000002 timeout 24d expires 23d23h59m50s",
        heard="0x00000002 timeout 24d expires 23d23h59m59s700ms",
    )
    assert re.search(r"^m1 +m2 +has served for 10 s +0\.3 s ago *$", run("cluster", "display").out, re.MULTILINE)
    member = run("cluster", "display", "--json").json["query"]["members"][0]
    assert (member["serving_s"], member["heard_s"]) == ({"m2": 10.0}, {"m2": 0.3})


def test_ip2mac_shows_the_macs_of_each_mode(run: Labctl) -> None:
    assert run("cluster", "ip2mac", "10.78.0.20").out.splitlines() == [
        "unicast    02:bf:0a:4e:00:14",
        "multicast  03:bf:0a:4e:00:14",
        "igmp       01:00:5e:7f:00:14",
        "members    02:01:0a:4e:00:14 to 02:20:0a:4e:00:14, by host ID",
    ]


# -- owner -------------------------------------------------------------------------------------------------------------


def test_owner_names_the_member_why_and_who_is_next(filters: Filters, run: Labctl) -> None:
    assert run("cluster", "owner", "10.9.0.101", "--to", "80").out == (
        "m1 (bucket 13 of rule 80/tcp, affinity single, then m2)\n"
    )
    assert run("cluster", "owner", "10.9.0.101:40000", "--to", "53/udp").out == (
        "m1 (no rule, so the default host, then m2)\n"
    )


def test_owner_knows_who_serves(filters: Filters, run: Labctl) -> None:
    run("cluster", "drain", "80", "m1")
    found = run("cluster", "owner", "10.9.0.101", "--to", "80", "--json").json
    assert (found["owner"], found["then"]) == ("m2", [])
    run("cluster", "drain", "80", "m2")
    assert run("cluster", "owner", "10.9.0.101", "--to", "80").out.startswith("nobody (bucket 13")


def test_owner_is_unknown_while_members_disagree(filters: Filters, run: Labctl) -> None:
    filters.inside[1].sees(1)
    ran = run("cluster", "owner", "10.9.0.101", "--to", "80")
    assert (ran.code, ran.err) == (
        3,
        "labctl: cluster web has not converged: m1 sees [1]; m2 sees [1, 2]\n  next: labctl cluster query\n",
    )


@pytest.mark.parametrize(
    "argv",
    [
        ("10.9.0.300", "--to", "80"),
        ("10.9.0.1:x", "--to", "80"),
        ("10.9.0.1", "--to", "80/sctp"),
        ("10.9.0.1", "--to", "65536"),
    ],
    ids=" ".join,
)
def test_what_is_no_client_or_port_is_bad_input(filters: Filters, run: Labctl, argv: tuple[str, ...]) -> None:
    assert run("cluster", "owner", *argv).code == 2

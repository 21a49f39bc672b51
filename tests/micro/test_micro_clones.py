"""Clones of one parent disk: cheap, each a machine of its own, and the parent as it was."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from labctl import images
from labctl.clock import Deadline, wait_until
from labctl.errors import GuestError, LabError
from labctl.guest.specialise import specialise
from labctl.render.xml import overlay_xml
from labctl.vault import load_secrets

pytestmark = pytest.mark.lab(topology="micro")

NODES = ["m1", "m2", "client"]

BOOT_ID = "/proc/sys/kernel/random/boot_id"

# What makes a machine one of its own, a line each.
IDENTITY = f"""
hostname
cat /etc/hostname /etc/machine-id
cut -d" " -f2 /etc/ssh/ssh_host_ed25519_key.pub
cat /etc/ssh/ssh_host_ed25519_key | sha256sum
head -c 16 /dev/urandom | sha256sum
cat {BOOT_ID}
cat /sys/class/net/[!l]*/address
"""


@pytest.fixture(scope="session")
def parent(micro):
    """The disk that all of the lab's nodes are clones of."""
    found = images.find(micro.hypervisor, images.load_recipe("micro"))
    assert found
    return found


@pytest.fixture(scope="session")
def identities(micro):
    return {name: micro.guest(name).shell(IDENTITY).splitlines() for name in NODES}


def addresses_of(guest):
    """By NIC: (MAC, its IPv4 addresses with prefix length), as the guest's kernel has them."""
    links = json.loads(guest.succeed(["/usr/sbin/ip", "-json", "address", "show"]))
    return {
        link["ifname"]: (
            link["address"],
            {f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if a["family"] == "inet"},
        )
        for link in links
        if link["ifname"] != "lo"
    }


def test_a_clone_takes_less_than_1_mb_before_it_starts(micro, parent):
    name = f"lab.{micro.name}.fresh.qcow2"
    try:
        fresh = micro.hypervisor.create_volume(overlay_xml(name, parent.disk.capacity_bytes, parent.disk.path))
        assert fresh.allocation_bytes < 1_000_000
        assert fresh.backing_path == parent.disk.path
        assert fresh.capacity_bytes == parent.disk.capacity_bytes
    finally:
        micro.hypervisor.remove_volume(name)


def test_no_running_clone_has_its_parent_open_for_writing(micro, parent):
    for name in NODES:
        process = Path("/proc") / Path(f"/run/libvirt/qemu/{micro.name}.{name}.pid").read_text()
        held = [fd for fd in (process / "fd").iterdir() if str(fd.readlink()) == parent.disk.path]
        flags = [int((process / "fdinfo" / fd.name).read_text().split("flags:")[1].split()[0], 8) for fd in held]
        assert flags
        assert all(flag & 0o3 == 0 for flag in flags), f"{name}: {flags}"


def test_each_node_has_the_name_of_the_topology(identities):
    assert {name: (seen[0], seen[1]) for name, seen in identities.items()} == {name: (name, name) for name in NODES}


def test_no_two_clones_share_any_part_of_their_identity(identities):
    shared = [set(one) & set(other) for one in identities.values() for other in identities.values() if one is not other]
    assert not any(shared), shared


def test_a_machine_id_is_one(identities):
    assert all(len(seen[2]) == 32 and int(seen[2], 16) for seen in identities.values())


@pytest.mark.parametrize("name", NODES)
def test_nics_have_the_names_macs_and_addresses_of_the_topology(micro, name):
    wanted = {
        nic.name: (nic.mac, {str(nic.address), *(f"{a}/16" for a in nic.extra_addresses)})
        for nic in micro.spec.node(name).nics
    }
    seen = addresses_of(micro.guest(name))
    cluster = micro.spec.clusters[0]
    if name in {m.node for m in cluster.members}:
        mac, own = wanted["cluster"]
        wanted["cluster"] = (mac, own | {f"{cluster.address.ip}/32"})
    assert seen == wanted


@pytest.mark.parametrize("name", NODES)
def test_every_node_and_the_cluster_can_be_reached_by_name(micro, name):
    names = {n.fqdn: str(n.address) for n in micro.spec.nodes} | {n.name: str(n.address) for n in micro.spec.nodes}
    names |= {c.fqdn: str(c.address.ip) for c in micro.spec.clusters}
    found = micro.guest(name).shell(f"getent ahostsv4 {' '.join(names)} | awk '$2 == \"STREAM\" {{print $1}}'")
    assert found.split() == list(names.values())
    others = [n.name for n in micro.spec.nodes if n.name != name]
    micro.guest(name).shell(" && ".join(f"ping -q -c 1 -W 5 {other}" for other in others))


def test_nothing_leads_out_of_the_lab(guest):
    assert guest.succeed(["/usr/sbin/ip", "route", "show", "default"]) == ""


def test_specialising_again_changes_nothing(guest, micro):
    look = IDENTITY.replace("head -c 16 /dev/urandom | sha256sum", "stat -c '%Y %n' /etc/ssh/ssh_host* /etc/machine-id")
    look += "ip -oneline address; ip route; cat /etc/hosts; date +%Z; cat /etc/timezone"
    before = guest.shell(look)
    secrets = load_secrets(micro.hypervisor, micro.name)
    specialise(guest, micro.spec, micro.spec.node("client"), secrets)
    assert guest.shell(look) == before


@pytest.fixture(scope="module")
def reset(micro, identities):
    """m2, after its reset button was pressed in the middle of a command; with the error that the command ended with."""
    guest = micro.guest("m2")
    with ThreadPoolExecutor(1) as pool:
        command = pool.submit(guest.run, ["/bin/sh", "-c", "echo > /run/begun; sleep 300"], within_s=300)
        within = Deadline.within(180, micro.clock)
        wait_until("m2: the command runs", lambda: _held(guest, "[ -e /run/begun ]"), within)
        micro.hypervisor.reset(guest.domain)
        error = command.exception(timeout=180)
    wait_until("m2: boots again", lambda: _held(guest, f"! grep {identities['m2'][6]} {BOOT_ID}"), within, every_s=0.5)
    micro.wait_converged()
    return guest, error


def _held(guest, condition):
    try:
        guest.shell(condition)
    except LabError as error:
        return None, str(error)
    return True, ""


def test_a_command_in_a_guest_that_is_reset_is_an_error(reset):
    _, error = reset
    assert isinstance(error, GuestError)
    assert "m2: " in str(error)


def test_a_node_that_is_reset_comes_back_as_itself(reset, identities):
    after = reset[0].shell(IDENTITY).splitlines()
    kept = [0, 1, 2, 3, 4, 7, 8]
    assert [after[n] for n in kept] == [identities["m2"][n] for n in kept]
    assert not {after[n] for n in (5, 6)} & set(identities["m2"])


def test_a_node_that_is_reset_has_its_addresses_and_serves_again(reset, micro):
    own = {nic: addresses for nic, (_, addresses) in addresses_of(reset[0]).items()}
    assert own == {"host": {"10.78.0.22/16"}, "cluster": {"10.78.0.32/16", "10.78.0.20/32"}}
    assert not micro.plan()
    assert micro.guest("client").succeed(["curl", "-sS", "--max-time", "10", "http://m2/"]) == "served by m2"


def test_no_lab_has_written_to_the_parent_disk(micro, parent):
    assert images.verify(micro.hypervisor, parent)

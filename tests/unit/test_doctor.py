"""The doctor judges what a host shows: one case per outcome, on a host that is made of values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import pytest

from labctl.accelerator import accelerator, cpu_flags, is_local
from labctl.doctor import Finding, diagnose, engine, healthy, network, place
from labctl.doctor.host import Owned, ThisHost
from labctl.errors import HypervisorError
from labctl.hypervisor.fake import FakeHypervisor
from labctl.inventory import HostFacts, PoolInfo
from labctl.topology.spec import Accelerator

POOL_PATH = "/var/lib/libvirt/images/labctl"
KVM_FACTS = HostFacts((9, 0, 0), (7, 2, 22), offers_kvm=True, virtualization=True, memory_mib=24000, cpus=2)
TCG_FACTS = HostFacts((11, 3, 0), (10, 0, 2), offers_kvm=False, virtualization=False, memory_mib=24000, cpus=2)
POOL = PoolInfo("labctl", POOL_PATH, active=True, available_bytes=50 << 30)
PASSWD = "root:x:0:0:root:/root:/bin/sh\nlibvirt-qemu:x:64055:109:Libvirt Qemu:/var/lib/libvirt:/usr/sbin/nologin"
GROUP = "kvm:x:109:\nlibvirt-qemu:x:64055:libvirt-qemu\nstaff:x:50:libvirt-qemu"
OPEN = Owned(0, 0, 0o755)
NFT = ("nft", "-j", "list", "chains")


@dataclass
class MadeHost:
    """A host made of values: files by path, directories and their permissions, programs and what they say."""

    files: dict[str, str] = field(default_factory=lambda: {"/etc/passwd": PASSWD, "/etc/group": GROUP})
    owners: dict[str, Owned] = field(default_factory=lambda: {"/": OPEN, "/dev/net/tun": OPEN})
    programs: tuple[str, ...] = place.BUILD_PROGRAMS
    says: dict[tuple[str, ...], str] = field(default_factory=dict)
    room_bytes: int = 50 << 30
    read_only: bool = False

    def text(self, path: str) -> str | None:
        return self.files.get(path)

    def names(self, path: str) -> tuple[str, ...]:
        below = {file.removeprefix(f"{path}/").split("/")[0] for file in self.files if file.startswith(f"{path}/")}
        return tuple(sorted(below))

    def owned(self, path: str) -> Owned | None:
        return self.owners.get(path)

    def free_bytes(self, path: str) -> int:
        return self.room_bytes

    def writable(self, path: str) -> bool:
        return not self.read_only

    def has(self, program: str) -> bool:
        return program in self.programs

    def output(self, *argv: str) -> str | None:
        return self.says.get(argv)


def of(findings: tuple[Finding, ...], name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def nft(*chains: dict[str, str]) -> str:
    return json.dumps({"nftables": [{"metainfo": {}}, *({"chain": chain} for chain in chains)]})


def forward(family: str, policy: str) -> dict[str, str]:
    return {"family": family, "table": "filter", "name": "FORWARD", "hook": "forward", "policy": policy}


# -- accelerator -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offers_kvm", "described", "flags", "chosen"),
    [
        (True, True, "fpu vmx sse", Accelerator.KVM),
        (True, False, "fpu svm sse", Accelerator.KVM),
        (True, True, "fpu sse", Accelerator.TCG),  # paravirtual KVM: offered, and useless
        (True, True, "fpu vmxoff sse", Accelerator.TCG),
        (True, True, "", Accelerator.TCG),
        (False, True, "fpu vmx sse", Accelerator.TCG),
        (True, True, None, Accelerator.KVM),
        (True, False, None, Accelerator.TCG),
        (False, True, None, Accelerator.TCG),
    ],
)
def test_auto_takes_kvm_only_where_the_cpu_virtualizes_and_libvirt_offers_it(
    offers_kvm: bool, described: bool, flags: str | None, chosen: Accelerator
) -> None:
    facts = replace(TCG_FACTS, offers_kvm=offers_kvm, virtualization=described)
    assert accelerator(facts, flags) is chosen


@pytest.mark.parametrize(
    ("uri", "local"),
    [
        ("qemu:///system", True),
        ("qemu:///session", True),
        ("test:///default", True),
        ("qemu+ssh://lab.example/system", False),
        ("qemu+tls://root@lab.example:16514/system?no_verify=1", False),
    ],
)
def test_a_uri_with_a_host_name_is_elsewhere(uri: str, local: bool) -> None:
    assert is_local(uri) is local


def test_flags_are_read_on_this_host_and_unknown_elsewhere(tmp_path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu vmx\nvmx flags\t: vnmi\n\nprocessor\t: 1\nflags\t\t: fpu vmx\n")
    assert cpu_flags("qemu:///system", cpuinfo) == "fpu vmx"
    assert cpu_flags("qemu+ssh://lab.example/system", cpuinfo) is None


def test_a_cpu_without_a_flags_line_has_no_flags(tmp_path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert cpu_flags("qemu:///system", cpuinfo) == ""


def test_emulation_is_a_fact_not_a_fault() -> None:
    finding = engine.check_accelerator(TCG_FACTS, MadeHost(), "fpu sse")
    assert finding.ok is True
    assert "TCG" in finding.found


def test_a_useless_dev_kvm_is_named() -> None:
    host = MadeHost(owners={"/dev/kvm": OPEN})
    finding = engine.check_accelerator(replace(TCG_FACTS, offers_kvm=True), host, "fpu sse")
    assert (finding.ok, "/dev/kvm is there" in finding.found) == (True, True)


@pytest.mark.parametrize(("flags", "module"), [("fpu vmx", "kvm_intel"), ("fpu svm", "kvm_amd")])
def test_idle_hardware_virtualization_is_a_warning_with_its_module(flags: str, module: str) -> None:
    finding = engine.check_accelerator(TCG_FACTS, MadeHost(), flags)
    assert (finding.ok, f"modprobe {module}" in finding.mend) == (None, True)


# -- versions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "chosen", "ok"),
    [
        ((10, 0, 0), Accelerator.TCG, True),
        ((9, 2, 4), Accelerator.TCG, False),
        ((7, 2, 0), Accelerator.KVM, True),
        ((6, 2, 0), Accelerator.KVM, False),
    ],
)
def test_qemu_must_be_newer_where_it_emulates(version: tuple[int, int, int], chosen: Accelerator, ok: bool) -> None:
    finding = engine.check_qemu(replace(TCG_FACTS, hypervisor_version=version), chosen)
    assert (finding.ok, bool(finding.mend)) == (ok, not ok)


@pytest.mark.parametrize(
    ("version", "chosen", "ok"),
    [
        ((11, 0, 0), Accelerator.TCG, True),
        ((10, 9, 0), Accelerator.TCG, False),
        ((9, 0, 0), Accelerator.KVM, True),
        ((8, 0, 0), Accelerator.KVM, False),
    ],
)
def test_libvirt_must_be_newer_where_qemu_emulates(
    version: tuple[int, int, int], chosen: Accelerator, ok: bool
) -> None:
    finding = engine.check_libvirt(replace(TCG_FACTS, libvirt_version=version), chosen)
    assert (finding.ok, bool(finding.mend)) == (ok, not ok)


# -- pool and room -----------------------------------------------------------------------------------------------------


def test_no_pool_yet_is_fine() -> None:
    assert engine.check_pool(None, MadeHost()).ok is True


def test_an_inactive_pool_is_a_warning() -> None:
    finding = engine.check_pool(replace(POOL, active=False), MadeHost())
    assert (finding.ok, finding.mend) == (None, "virsh pool-start labctl")


def test_a_pool_that_cannot_be_written_to_is_wrong() -> None:
    assert engine.check_pool(POOL, MadeHost(read_only=True)).ok is False


def test_a_pool_elsewhere_is_judged_by_libvirt_alone() -> None:
    assert engine.check_pool(POOL, None).ok is True


@pytest.mark.parametrize(("gib", "ok"), [(9, False), (10, True)])
def test_ten_gib_of_room_serve(gib: int, ok: bool) -> None:
    here = engine.check_room(POOL, MadeHost(room_bytes=gib << 30), POOL_PATH, 10)
    elsewhere = engine.check_room(replace(POOL, available_bytes=gib << 30), None, POOL_PATH, 10)
    assert (here and here.ok, elsewhere and elsewhere.ok) == (ok, ok)


def test_room_elsewhere_is_unknown_without_a_pool() -> None:
    assert engine.check_room(None, None, POOL_PATH, 10) is None


# -- permissions, confinement, memory, programs ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owned", "ok"),
    [
        (Owned(0, 0, 0o711), True),
        (Owned(0, 0, 0o700), False),
        (Owned(0, 109, 0o710), True),  # its own group
        (Owned(0, 50, 0o710), True),  # a group that it is a member of
        (Owned(0, 109, 0o701), False),  # the group's bits count, not the others'
        (Owned(64055, 0, 0o100), True),
        (Owned(64055, 0, 0o011), False),
    ],
)
def test_every_directory_on_the_way_must_let_qemu_pass(owned: Owned, ok: bool) -> None:
    host = MadeHost(owners={"/": OPEN, "/var/lib/libvirt/images": owned})
    finding = place.check_permissions(host, POOL_PATH)
    assert (finding.ok, finding.mend) == (ok, "" if ok else "sudo chmod o+x /var/lib/libvirt/images")


def test_qemu_as_root_reaches_everything() -> None:
    host = MadeHost(owners={"/var": Owned(1, 1, 0o700)})
    host.files["/etc/libvirt/qemu.conf"] = '# user = "libvirt-qemu"\nuser = "root"\n'
    assert place.check_permissions(host, POOL_PATH).ok is True


def test_qemu_without_its_user_is_wrong() -> None:
    finding = place.check_permissions(MadeHost(files={"/etc/passwd": "root:x:0:0::/root:/bin/sh"}), POOL_PATH)
    assert (finding.ok, finding.found) == (False, "no user libvirt-qemu")


def test_the_user_is_called_qemu_on_other_distributions() -> None:
    host = MadeHost(files={"/etc/passwd": "qemu:x:107:107::/:/sbin/nologin"})
    assert place.check_permissions(host, POOL_PATH).found == f"qemu can reach {POOL_PATH}"


@pytest.mark.parametrize(
    ("files", "directory", "ok"),
    [
        ({}, POOL_PATH, True),
        ({"/sys/module/apparmor/parameters/enabled": "N"}, POOL_PATH, True),
        ({"/sys/module/apparmor/parameters/enabled": "Y"}, POOL_PATH, None),
        (
            {"/sys/module/apparmor/parameters/enabled": "Y", "/etc/apparmor.d/libvirt/TEMPLATE.qemu": "profile"},
            POOL_PATH,
            True,
        ),
        ({"/sys/fs/selinux/enforce": "0"}, "/srv/labctl", True),
        ({"/sys/fs/selinux/enforce": "1"}, POOL_PATH, True),
        ({"/sys/fs/selinux/enforce": "1"}, "/srv/labctl", None),
    ],
)
def test_confinement_gets_in_the_way_only_without_its_means(
    files: dict[str, str], directory: str, ok: bool | None
) -> None:
    finding = place.check_confinement(MadeHost(files=files), directory)
    assert (finding.ok, bool(finding.mend)) == (ok, ok is None)


@pytest.mark.parametrize(
    ("total_mib", "free_mib", "ok"), [(8000, 4000, True), (8000, 3839, None), (3839, 3000, False), (3840, 3840, True)]
)
def test_memory_that_is_taken_is_a_warning_and_memory_that_is_not_there_a_fault(
    total_mib: int, free_mib: int, ok: bool | None
) -> None:
    host = MadeHost()
    host.files["/proc/meminfo"] = f"MemTotal:  {total_mib * 1024} kB\nMemAvailable:  {free_mib * 1024} kB"
    finding = place.check_memory(replace(TCG_FACTS, memory_mib=1), host, 3840)
    assert (finding.ok, bool(finding.mend)) == (ok, ok is not True)


@pytest.mark.parametrize(("memory_mib", "ok"), [(3839, False), (3840, True)])
def test_memory_elsewhere_is_what_libvirt_says(memory_mib: int, ok: bool) -> None:
    assert place.check_memory(replace(TCG_FACTS, memory_mib=memory_mib), None, 3840).ok is ok


def test_missing_build_programs_are_named() -> None:
    finding = place.check_programs(MadeHost(programs=("mkfs.ext4", "qemu-img", "cpio")))
    assert (finding.ok, finding.found) == (False, "missing: mmdebstrap, xz")


@pytest.mark.parametrize(("gib", "ok"), [(3, False), (4, True)])
def test_a_build_needs_room(gib: int, ok: bool) -> None:
    assert place.check_build_room(MadeHost(room_bytes=gib << 30), "/var/cache/labctl").ok is ok


# -- bridges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("called", "chains", "ok"),
    [
        (False, [], True),
        (False, [forward("ip", "drop")], True),  # routed packets only: no business of a bridge
        (False, [forward("bridge", "drop")], False),
        (True, [], None),
        (True, [forward("ip", "accept")], None),
        (True, [forward("ip", "drop")], False),
        (True, [forward("inet", "drop")], False),
        (True, [forward("bridge", "drop")], False),
    ],
)
def test_forward_rules_matter_when_bridged_frames_reach_them(
    called: bool, chains: list[dict[str, str]], ok: bool | None
) -> None:
    host = MadeHost(says={NFT: nft(*chains)})
    host.files["/proc/sys/net/bridge/bridge-nf-call-iptables"] = "1" if called else "0"
    finding = network.check_bridged_frames(host)
    assert (finding.ok, bool(finding.mend)) == (ok, ok is not True)


def test_legacy_iptables_counts_too() -> None:
    legacy = ("iptables-legacy", "-S", "FORWARD")
    host = MadeHost(programs=("iptables-legacy",), says={NFT: nft(), legacy: "-P FORWARD DROP\n"})
    host.files["/proc/sys/net/bridge/bridge-nf-call-iptables"] = "1"
    finding = network.check_bridged_frames(host)
    assert (finding.ok, "iptables-legacy filter FORWARD" in finding.found) == (False, True)


def test_rules_that_only_root_can_see_are_a_warning() -> None:
    host = MadeHost()
    host.files["/proc/sys/net/bridge/bridge-nf-call-iptables"] = "1"
    finding = network.check_bridged_frames(host)
    assert (finding.ok, "only root can see" in finding.found) == (None, True)


@pytest.mark.parametrize(("snooping", "querier", "ok"), [("1", "0", True), ("0", "1", True), ("1", "1", None)])
def test_a_snooping_bridge_with_a_querier_is_a_warning(snooping: str, querier: str, ok: bool | None) -> None:
    host = MadeHost()
    host.files["/sys/class/net/virbr1/bridge/multicast_snooping"] = snooping
    host.files["/sys/class/net/virbr1/bridge/multicast_querier"] = querier
    host.files["/sys/class/net/eth0/address"] = "02:00:00:00:00:01"
    finding = network.check_multicast(host)
    assert (finding.ok, "virbr1" in finding.mend) == (ok, ok is None)


def test_without_tun_no_nic_can_be_made() -> None:
    assert network.check_tun(MadeHost(owners={})).mend == "sudo modprobe tun"
    assert network.check_tun(MadeHost()).ok is True


# -- all together ------------------------------------------------------------------------------------------------------


def test_a_host_that_serves_is_healthy_and_needs_no_mending() -> None:
    hypervisor = FakeHypervisor()
    hypervisor.facts = KVM_FACTS
    findings = diagnose(lambda: hypervisor, MadeHost(), flags="fpu vmx")
    assert [f for f in findings if f.ok is not True or f.mend] == []
    assert healthy(findings)


def test_a_daemon_that_does_not_answer_hides_nothing_else() -> None:
    def refuse() -> FakeHypervisor:
        raise HypervisorError("connection to qemu:///system: no such socket")

    findings = diagnose(refuse, MadeHost(programs=()), flags="fpu")
    assert of(findings, "libvirt daemon").mend == "sudo ./bootstrap true"
    assert of(findings, "image build programs").ok is False
    assert not healthy(findings)


def test_elsewhere_only_libvirt_is_asked() -> None:
    names = {finding.name for finding in diagnose(FakeHypervisor, None)}
    assert {"libvirt daemon", "QEMU", "memory"} <= names
    assert names.isdisjoint({"permissions", "confinement", "/dev/net/tun", "bridged frames", "multicast on bridges"})


def test_a_warning_is_not_a_fault() -> None:
    assert healthy((Finding("memory", None, "little"), Finding("QEMU", True, "10.0.2")))
    assert not healthy((Finding("memory", None, "little"), Finding("QEMU", False, "6.2.0")))


def test_this_host_says_none_for_what_it_has_not(tmp_path) -> None:
    host = ThisHost()
    (tmp_path / "file").write_text("text\n")
    assert host.text(str(tmp_path / "file")) == "text"
    assert host.text(str(tmp_path / "none")) is None
    assert host.names(str(tmp_path)) == ("file",)
    assert host.names(str(tmp_path / "none")) == ()
    assert host.owned(str(tmp_path / "none")) is None
    assert host.output("program-that-is-not-there") is None
    assert host.output("false") is None
    assert host.free_bytes(str(tmp_path / "none" / "deeper")) > 0

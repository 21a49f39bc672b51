"""The host and the connection: what holds of every hypervisor."""

from __future__ import annotations

from contract_bench import Bench

from labctl.hypervisor.seam import Hypervisor


def test_the_host_says_what_it_is(bench: Bench, hypervisor: Hypervisor) -> None:
    facts = hypervisor.host()
    assert facts.libvirt_version >= (8, 0, 0)
    assert facts.hypervisor_version > (0, 0, 0)
    assert facts.memory_mib > 0
    assert facts.cpus > 0

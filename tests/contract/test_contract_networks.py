"""Networks: what holds of every hypervisor."""

from __future__ import annotations

import pytest
from contract_bench import LAB, Bench

from labctl.errors import HypervisorError
from labctl.hypervisor.seam import Hypervisor
from labctl.inventory import Mark, NetworkInfo
from labctl.render.names import bridge_name, network_name


def _info(hypervisor: Hypervisor, name: str) -> NetworkInfo:
    (info,) = (n for n in hypervisor.networks() if n.name == name)
    return info


def test_a_new_network_is_down_and_carries_its_mark(bench: Bench, hypervisor: Hypervisor) -> None:
    name = bench.network("lan", start=False)
    info = _info(hypervisor, name)
    assert info == NetworkInfo(
        network_name(LAB, "lan"), info.uuid, False, bridge_name(LAB, "lan"), Mark(LAB, "lan", "0123")
    )


def test_starting_a_network_twice_is_fine(bench: Bench, hypervisor: Hypervisor) -> None:
    name = bench.network("lan")
    hypervisor.start_network(name)
    assert _info(hypervisor, name).active


def test_define_refuses_a_network_that_exists(bench: Bench, hypervisor: Hypervisor) -> None:
    bench.network("lan")
    with pytest.raises(HypervisorError, match=f"network {network_name(LAB, 'lan')}: .*exists"):
        bench.network("lan")


@pytest.mark.parametrize("start", [False, True], ids=["down", "up"])
def test_removing_a_network_twice_is_fine(bench: Bench, hypervisor: Hypervisor, start: bool) -> None:
    name = bench.network("lan", start=start)
    hypervisor.remove_network(name)
    hypervisor.remove_network(name)
    assert name not in {n.name for n in hypervisor.networks()}


def test_somebody_elses_network_has_no_mark(bench: Bench, hypervisor: Hypervisor) -> None:
    hypervisor.define_network(f"<network><name>{LAB}-foreign</name><bridge name='lcforeign'/></network>")
    assert _info(hypervisor, f"{LAB}-foreign").mark is None


def test_an_error_names_the_network_that_is_missing(bench: Bench, hypervisor: Hypervisor) -> None:
    with pytest.raises(HypervisorError, match=f"network {LAB}-nobody"):
        hypervisor.start_network(f"{LAB}-nobody")

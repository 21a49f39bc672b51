"""What is watched beside a test: the machines, and anything that is looked at again and again."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from lab_bench import Bench, pair

from labctl.clock import Deadline, wait_until
from labctl.errors import HypervisorError
from labctl.faults import watching_machines
from labctl.history import HistoryWriter, MachineEvent
from labctl.parallel import repeated
from labctl.render.names import domain_name


def test_each_change_of_a_machine_is_recorded_once(tmp_path: Path) -> None:
    bench = Bench()
    bench.parent()
    lab = bench.lab(pair())
    lab.up(boot=True, keep=False)

    def seen(history: HistoryWriter) -> list[tuple[str, str]]:
        return [(e.node, e.state) for e in history.read().of(MachineEvent)]

    with HistoryWriter(tmp_path / "history.jsonl") as history:
        with watching_machines(lab.ground(), history, every_s=0.01):
            until(lambda: len(seen(history)) == 3)
            bench.hypervisor.crash(domain_name(lab.name, "m1"))
            until(lambda: len(seen(history)) == 4)
            bench.hypervisor.remove_domain(domain_name(lab.name, "c"))
            until(lambda: len(seen(history)) == 5)
        assert sorted(seen(history)[:3]) == [("c", "running"), ("m1", "running"), ("m2", "running")]
        assert seen(history)[3:] == [("m1", "crashed"), ("c", "gone")]


def until(claim) -> None:  # type: ignore[no-untyped-def]
    wait_until("it is seen", lambda: (claim() or None, "not yet"), Deadline.within(10), every_s=0.01)


def test_what_is_repeated_ends_with_the_block_and_tells_what_it_ran_into() -> None:
    calls = threading.Semaphore(0)

    def act() -> None:
        calls.release()
        raise HypervisorError("gone")

    with pytest.raises(HypervisorError, match="gone"), repeated(act, "test", every_s=0.01):
        assert calls.acquire(timeout=10)
    assert not calls.acquire(blocking=False)

"""What is watched beside a test: the machines, and anything that is looked at again and again."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from lab_bench import Bench, cluster_spec, pair

from labctl.clock import Deadline, SystemClock, wait_until
from labctl.cluster.knowledge import Knowledge
from labctl.cluster.membership import ClusterView, MemberView
from labctl.cluster.watch import watching
from labctl.errors import HypervisorError
from labctl.faults import watching_machines
from labctl.history import HistoryWriter, MachineEvent, MembershipEvent, Note
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


CLUSTER = cluster_spec("m1", "m2")


def view(*serving_s: Mapping[int, float] | None) -> ClusterView:
    """What m1, and then m2, knows of who serves and since when."""
    known = [None if s is None else Knowledge(frozenset(s), s) for s in serving_s]
    members = zip(CLUSTER.members, known, strict=True)
    return ClusterView(CLUSTER, tuple(MemberView(m.node, m.priority, k, "" if k else "gone") for m, k in members))


ALL = {1: 60.0, 2: 60.0}
BOTH = ("m1", "m2")


@pytest.mark.parametrize(
    ("second", "news"),
    [
        (view({1: 61.0, 2: 61.0}, {1: 61.0, 2: 61.0}), []),
        (view({1: 61.0}, {1: 61.0, 2: 61.0}), [("m1", ("m1",))]),
        (view({1: 61.0, 2: 0.3}, {1: 61.0, 2: 61.0}), [("m1", ("m1",)), ("m1", BOTH)]),  # missed between two looks
        (view(None, {1: 61.0, 2: 61.0}), ["m1: can't be asked who is alive: gone"]),
    ],
)
def test_a_change_of_who_is_seen_is_recorded_also_when_it_is_over_at_the_next_look(
    second: ClusterView, news: list[object], tmp_path: Path
) -> None:
    looks = iter([view(ALL, ALL), second])
    over = threading.Event()

    def look() -> ClusterView:
        found = next(looks, None)
        if found is None:
            over.set()
        return found or second

    with HistoryWriter(tmp_path / "history.jsonl") as history:
        with watching(look, history, SystemClock(), every_s=0.01):
            assert over.wait(10)
        seen = [
            e.text if isinstance(e, Note) else (e.observer, e.alive)
            for e in history.read().events
            if isinstance(e, Note | MembershipEvent)
        ]
    assert seen == [("m1", BOTH), ("m2", BOTH), *news]


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

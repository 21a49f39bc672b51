"""Reading what a member's packet filter knows, as nft 1.0 and 1.1 write it."""

from __future__ import annotations

import pytest

from labctl.cluster.knowledge import Knowledge, Told, Word, read_knowledge
from labctl.topology.spec import Filtering, PortRule, RuleProtocol

LISTED = """\
table ip labctl_web {
    set alive {
        type mark
        size 64
        flags dynamic,timeout
        elements = { 0x00000001 timeout 2s500ms expires 2s248ms,
            0x00000020 timeout 2s500ms expires 2s172ms }
    }
    set joined {
        type mark
        size 64
        flags dynamic,timeout
        elements = { 0x00000001 timeout 24d expires 23d23h58m50s928ms }
    }
    set heard {
        type mark
        size 64
        flags dynamic,timeout
        elements = { 0x00000001 timeout 24d expires 24d, 0x00000002 timeout 24d expires 22d }
    }
    set strangers {
        type mark
        size 64
        flags dynamic,timeout
    }
    set disabled {
        type mark
        elements = { 0x00000000 comment "refused 1800000000 10.9.0.200 is answered by 52:54:00:aa:bb:cc ",
            0x000601bb comment "disabled 1800000001", 0x00ff0000 }
    }
    set draining {
        type mark
    }
    set rules {
        type mark
        elements = { 0x68d67f57 }
    }
    set held_80_tcp {
        type mark
        size 64
        flags dynamic,timeout
        elements = { 0x00000002 timeout 2s500ms expires 1s }
    }
}
""".replace("    ", "\t")


@pytest.fixture(scope="module")
def knows() -> Knowledge:
    return read_knowledge(LISTED)


def test_who_is_alive_is_read_from_elements_over_several_lines(knows: Knowledge) -> None:
    assert knows.alive == {1, 32}


def test_ages_are_what_is_gone_of_24_days(knows: Knowledge) -> None:
    assert knows.serving_s == {1: pytest.approx(69.072)}
    assert knows.heard_s == {1: 0.0, 2: pytest.approx(2 * 86400)}


def test_what_a_member_was_told_comes_with_time_and_reason(knows: Knowledge) -> None:
    assert knows.whole == Told(Word.REFUSED, 1_800_000_000.0, "10.9.0.200 is answered by 52:54:00:aa:bb:cc")
    assert knows.told[0x601BB] == Told(Word.DISABLED, 1_800_000_001.0)


def test_what_was_added_by_hand_has_neither(knows: Knowledge) -> None:
    assert knows.told[0xFF0000] == Told(Word.DISABLED, 0.0)


def test_the_rules_digest_and_who_does_not_serve_a_rule_are_read(knows: Knowledge) -> None:
    assert knows.digest == 0x68D67F57
    assert knows.held_of(PortRule(80, 80, RuleProtocol.TCP, Filtering.MULTIPLE)) == {2}
    assert knows.held_of(PortRule(81, 81, RuleProtocol.TCP, Filtering.MULTIPLE)) == frozenset()


def test_a_filter_without_sets_knows_nothing() -> None:
    assert read_knowledge("table ip labctl_web {\n}\n") == Knowledge(frozenset())


@pytest.mark.parametrize("told", [Told(Word.STOPPED, 1_800_000_000.0), Told(Word.REFUSED, 1_800_000_000.0, "why")])
def test_what_is_told_is_read_as_it_was_written(told: Told) -> None:
    listed = f'table ip t {{\n\tset disabled {{\n\t\telements = {{ 0x00000000 comment "{told}" }}\n\t}}\n}}\n'
    assert read_knowledge(listed).whole == told

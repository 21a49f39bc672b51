"""A lab's secrets: random, complete, kept with the lab, and the same for as long as it is there."""

from __future__ import annotations

import io
import json
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from lab_bench import lab_spec, node_spec

from labctl.authority import make_authority
from labctl.errors import HypervisorError
from labctl.hypervisor.fake import FakeHypervisor
from labctl.inventory import lab_of_volume
from labctl.render.names import secrets_name
from labctl.render.xml import base_xml
from labctl.secrets import SecretKind, Secrets, make_password
from labctl.topology.spec import UserSpec
from labctl.vault import ROOM_BYTES, keep_secrets, load_secrets, save_secrets

WANTED = {
    "ca": {"ca": SecretKind.AUTHORITY, "enrolment": SecretKind.HEX_KEY},
    "dc": {"administrator": SecretKind.PASSWORD},
}


@pytest.fixture
def hypervisor() -> FakeHypervisor:
    hypervisor = FakeHypervisor()
    hypervisor.ensure_pool()
    return hypervisor


# -- what is made ------------------------------------------------------------------------------------------------------


def test_a_password_has_letters_of_both_kinds_and_digits_and_no_two_are_alike() -> None:
    made = {make_password() for _ in range(200)}
    assert len(made) == 200
    for word in made:
        assert len(word) == 20
        assert word.isalnum()
        assert word.isascii()
        assert any(c.islower() for c in word)
        assert any(c.isupper() for c in word)
        assert any(c.isdigit() for c in word)


def test_what_is_wanted_is_made_and_what_is_there_stays() -> None:
    first = Secrets().completed({"dc": WANTED["dc"]}, ("ann",), "lab.test")
    more = first.completed(WANTED, ("ann", "bo"), "lab.test")
    assert more.roles["dc"] == first.roles["dc"]
    assert more.users["ann"] == first.users["ann"]
    assert more.users.keys() == {"ann", "bo"}
    assert len(bytes.fromhex(more.roles["ca"]["enrolment"])) == 16
    assert more.completed(WANTED, ("ann", "bo"), "lab.test") == more


def test_stand_ins_have_the_names_of_what_they_stand_for() -> None:
    made = Secrets().completed(WANTED, ("ann",), "lab.test")
    stand_ins = Secrets.stand_ins(WANTED, ("ann",))
    assert {role: set(values) for role, values in stand_ins.roles.items()} == {
        role: set(values) for role, values in made.roles.items()
    }
    assert stand_ins.users == {"ann": "(secret users.ann)"}


def test_no_two_labs_have_a_secret_in_common() -> None:
    one, other = (dict(Secrets().completed(WANTED, ("ann",), "lab.test").items()) for _ in range(2))
    assert one.keys() == other.keys()
    assert not set(one.values()) & set(other.values())


def test_the_authority_is_a_chain_that_openssl_takes(tmp_path: Path) -> None:
    made = make_authority("lab.test")
    for name, text in asdict(made).items():
        (tmp_path / name).write_text(text)

    def openssl(*argv: str) -> str:
        return subprocess.run(["openssl", *argv], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    assert openssl("verify", "-x509_strict", "-CAfile", "root_certificate", "certificate") == "certificate: OK\n"
    public = openssl("ec", "-in", "key", "-pubout")
    assert openssl("x509", "-in", "certificate", "-noout", "-pubkey") == public
    assert "pathlen:0" in openssl("x509", "-in", "certificate", "-noout", "-text")
    assert made.key.startswith("-----BEGIN EC PRIVATE KEY-----")


# -- where it is kept --------------------------------------------------------------------------------------------------


LAB = replace(lab_spec(node_spec("dc", 1, roles=("certificate-authority",))), users=(UserSpec("ann", "A", "A", 1),))


def test_secrets_are_kept_with_the_lab_and_come_back(hypervisor: FakeHypervisor) -> None:
    made = keep_secrets(hypervisor, LAB)
    assert load_secrets(hypervisor, "lab") == made
    assert made.users.keys() == {"ann"}
    assert [lab_of_volume(v.name) for v in hypervisor.volumes()] == ["lab"]


def test_secrets_that_are_complete_are_not_written_again(hypervisor: FakeHypervisor) -> None:
    made = keep_secrets(hypervisor, LAB)
    hypervisor.fail_on["write_volume"] = AssertionError("written")
    assert keep_secrets(hypervisor, LAB) == made


def test_a_new_user_leaves_the_others_passwords_alone(hypervisor: FakeHypervisor) -> None:
    made = keep_secrets(hypervisor, LAB)
    more = keep_secrets(hypervisor, replace(LAB, users=(*LAB.users, UserSpec("bo", "B", "B", 1))))
    assert more.users["ann"] == made.users["ann"]
    assert more.roles == made.roles
    assert load_secrets(hypervisor, "lab") == more


def test_fewer_secrets_leave_nothing_of_the_others(hypervisor: FakeHypervisor) -> None:
    keep_secrets(hypervisor, LAB)
    save_secrets(hypervisor, "lab", Secrets(users={"bo": "x"}))
    assert load_secrets(hypervisor, "lab") == Secrets(users={"bo": "x"})


def test_a_lab_without_secrets_has_no_volume_for_them(hypervisor: FakeHypervisor) -> None:
    assert keep_secrets(hypervisor, lab_spec(node_spec("c", 1))) == Secrets()
    assert hypervisor.volumes() == ()


def test_secrets_whose_writing_never_began_are_made_again(hypervisor: FakeHypervisor) -> None:
    hypervisor.create_volume(base_xml(secrets_name("lab"), ROOM_BYTES, "raw"))
    assert keep_secrets(hypervisor, LAB).users.keys() == {"ann"}


SPOILT = {
    "cut short": b'{"roles": {"dc"',
    "a list": b"[]",
    "no text": b"\xff\xfe",
    "a number": b'{"roles": {}, "users": {"a": 1}}',
}


@pytest.mark.parametrize("data", SPOILT.values(), ids=SPOILT)
def test_secrets_that_cannot_be_read_are_never_replaced(hypervisor: FakeHypervisor, data: bytes) -> None:
    hypervisor.create_volume(base_xml(secrets_name("lab"), ROOM_BYTES, "raw"))
    hypervisor.upload_volume(secrets_name("lab"), io.BytesIO(data), len(data), lambda _sent: None)
    with pytest.raises(HypervisorError, match="the lab's secrets can't be read") as refused:
        keep_secrets(hypervisor, LAB)
    assert refused.value.hint == "labctl destroy --lab lab, then bring it up again"


def test_more_secrets_than_there_is_room_for_are_refused_before_anything_is_written(hypervisor: FakeHypervisor) -> None:
    with pytest.raises(HypervisorError, match="bytes of secrets; expected 131072 at most"):
        save_secrets(hypervisor, "lab", Secrets(users={"ann": "x" * ROOM_BYTES}))
    assert hypervisor.volumes() == ()


def test_secrets_survive_json() -> None:
    made = Secrets().completed(WANTED, ("ann",), "lab.test")
    assert Secrets.from_json(json.loads(json.dumps(asdict(made)))) == made

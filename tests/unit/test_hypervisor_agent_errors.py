"""libvirt's errors of a guest agent command, and what each means to a caller."""

from __future__ import annotations

import libvirt
import pytest

from labctl.errors import AgentGone, GuestError, HypervisorError
from labctl.hypervisor import libvirt_api


def _error(code: int, words: str) -> libvirt.libvirtError:
    error = libvirt.libvirtError("virDomainQemuAgentCommand() failed")
    error.err = (code, 0, words, 2, None, None, None, -1, -1)
    return error


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, AgentGone),
        (libvirt.VIR_ERR_OPERATION_INVALID, AgentGone),
        (112, AgentGone),  # VIR_ERR_AGENT_COMMAND_TIMEOUT
        (113, GuestError),  # VIR_ERR_AGENT_COMMAND_FAILED
        (libvirt.VIR_ERR_INTERNAL_ERROR, GuestError),  # the same before libvirt 11.2
        (libvirt.VIR_ERR_RPC, HypervisorError),
    ],
)
def test_an_agents_error_has_a_class_by_its_code(code: int, kind: type[Exception]) -> None:
    error = libvirt_api._agent_error(_error(code, "words"), "domain lab.n1: agent: guest-exec")
    assert type(error) is kind
    assert str(error) == "domain lab.n1: agent: guest-exec: words"


@pytest.mark.parametrize("name", ["VIR_ERR_AGENT_COMMAND_TIMEOUT", "VIR_ERR_AGENT_COMMAND_FAILED"])
def test_a_code_given_as_a_number_is_libvirts(name: str) -> None:
    assert getattr(libvirt, name, None) in {None, getattr(libvirt_api, name.removeprefix("VIR_ERR"))}

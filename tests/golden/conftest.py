"""What golden tests share: where the files are, what labs can choose from, and how a file is made anew."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from labctl.topology.catalogue import Catalogue, ImageDefaults

GOLDEN = Path(__file__).parent


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """Roles and images that stay as they are here, whatever labctl ships."""
    roles = {
        "certificate-authority": (),
        "certificate": ("certificate-authority",),
        "domain-controller": ("certificate-authority",),
        "client-access": (),
        "mailbox": ("domain-controller",),
        "hub-transport": ("domain-controller",),
        "client": (),
        "web-server": (),
        "moving-address": (),
        "balancer": ("web-server",),
        "resolver": (),
        "hen": ("chick",),
        "chick": ("egg",),
        "egg": ("hen",),
    }
    images = {"debian-13": ImageDefaults(memory_mib=768), "micro": ImageDefaults(memory_mib=192)}
    companions = {"client-access": ("certificate",), "domain-controller": ("certificate",)}
    files = {
        "client-access": ("/etc/dovecot.conf",),
        "mailbox": ("/etc/dovecot.conf", "/etc/ldap.conf"),
    }
    return Catalogue(roles, images, companions, files)


@pytest.fixture(scope="session")
def same_as() -> Callable[[Path, str], None]:
    """Compare a text with its golden file; with LABCTL_GOLDEN=write, make the file what the text is."""
    write = os.environ.get("LABCTL_GOLDEN") == "write"
    if write and os.environ.get("CI"):
        pytest.fail("LABCTL_GOLDEN=write is for a person who then reads the difference; CI is set")

    def compare(golden: Path, text: str) -> None:
        if write:
            golden.write_text(text, "utf-8")
        assert golden.is_file(), f"{golden} is missing; LABCTL_GOLDEN=write pytest {GOLDEN} makes it"
        assert text == golden.read_text("utf-8")

    return compare

"""The parts of `bootstrap` that decide, run by sourcing the script: sourced, it only defines its functions."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

BOOTSTRAP = Path(__file__).parents[2] / "bootstrap"
PLACE = "http://mirror.example/debian"
STANZA = f"Types: deb\nURIs: {PLACE}\nSuites: bookworm-backports\nComponents: main\n"


def sourced(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = ["sh", "-c", f'. "{BOOTSTRAP}"; {script}', "sh", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)


def backports_of(file: Path) -> str:
    done = sourced('backports_of "$1" "$2"', str(file), PLACE)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param(
            f"Types: deb\n# a comment\nURIs: {PLACE}\nSuites: bookworm bookworm-updates\nComponents: main\n"
            "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n",
            f"{STANZA}Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n",
            id="the stanza of a fresh Debian 12",
        ),
        pytest.param(
            "Types: deb\nURIs: http://other.example/php\nSuites: bookworm\nComponents: main\n\n"
            f"Types: deb deb-src\nURIs: {PLACE}/\nSuites: bookworm\nComponents: main contrib\nTrusted: yes\n",
            f"{STANZA}Trusted: yes\n",
            id="a stranger's stanza before it, and a slash at the end",
        ),
        pytest.param(
            f"types:deb\nuris:\n http://first.example/debian\n {PLACE}\nSUITES:\tbookworm\nComponents: main\n"
            "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc=\n -----END PGP PUBLIC KEY BLOCK-----\n",
            f"{STANZA}Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc=\n"
            " -----END PGP PUBLIC KEY BLOCK-----\n",
            id="fields over several lines, a key inside",
        ),
        pytest.param(
            f"Enabled: no\nTypes: deb\nURIs: {PLACE}\nSuites: bookworm\nComponents: main\n", "", id="switched off"
        ),
        pytest.param(
            f"Types: deb-src\nURIs: {PLACE}\nSuites: bookworm\nComponents: main\n", "", id="sources of packages only"
        ),
        pytest.param(
            f"Types: deb\nURIs: {PLACE}\nSuites: bookworm-updates\nComponents: main\n", "", id="another suite"
        ),
        pytest.param(f"Types: deb\nURIs: {PLACE}\nSuites: bookworm\nComponents: contrib\n", "", id="another component"),
        pytest.param(
            f"Types: deb\nURIs: {PLACE}-security\nSuites: bookworm\nComponents: main\n", "", id="another place"
        ),
    ],
)
def test_a_deb822_source_is_turned_into_one_for_backports(tmp_path: Path, source: str, expected: str) -> None:
    file = tmp_path / "debian.sources"
    file.write_text(source)
    assert backports_of(file) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param(f"deb {PLACE} bookworm main\n", f"deb {PLACE} bookworm-backports main\n", id="plain"),
        pytest.param(
            f"# deb {PLACE} bookworm main\n"
            f"deb-src {PLACE} bookworm main\n"
            "deb http://other.example/php bookworm main\n"
            f"deb [ arch=amd64,i386 signed-by=/k.gpg ] {PLACE}/ bookworm contrib main # ours\n",
            f"deb [ arch=amd64,i386 signed-by=/k.gpg ] {PLACE} bookworm-backports main\n",
            id="options are kept, others are passed over",
        ),
        pytest.param(
            f"deb {PLACE} bookworm-updates main\ndeb {PLACE} bookworm contrib\n", "", id="nothing that serves"
        ),
    ],
)
def test_a_one_line_source_is_turned_into_one_for_backports(tmp_path: Path, source: str, expected: str) -> None:
    file = tmp_path / "sources.list"
    file.write_text(source)
    assert backports_of(file) == expected


@pytest.mark.parametrize(
    ("version", "wanted", "ok"),
    [
        ("10.0.2+ds-2+deb13u1~bpo12+1", "10.0", True),
        ("10.0", "10.0", True),
        ("10.0~rc1", "10.0", False),
        ("9.2.1", "10.0", False),
        ("7.2+dfsg-7+deb12u18", "7.2", True),
        ("", "7.2", False),
        ("(none)", "7.2", False),
    ],
)
def test_versions_are_compared_as_versions(version: str, wanted: str, ok: bool) -> None:
    assert (sourced('at_least "$1" "$2"', version, wanted).returncode == 0) is ok


@pytest.mark.parametrize(
    ("virtualizes", "qemu", "libvirt", "lacks"),
    [
        ("true", "7.2.22", "9.0.0", []),
        ("false", "10.0.2", "11.3.0", []),
        ("false", "8.2.2", "11.3.0", ["QEMU 8.2.2 (without hardware virtualization it takes 10.0)"]),
        ("false", "10.0.2", "10.0.0", ["libvirt 10.0.0 (without hardware virtualization it takes 11.0)"]),
        (
            "true",
            "6.2",
            "",
            [
                "QEMU 6.2 (with hardware virtualization it takes 7.2)",
                "libvirt none (with hardware virtualization it takes 9.0)",
            ],
        ),
    ],
)
def test_what_is_too_old_is_named_with_what_it_takes(
    virtualizes: str, qemu: str, libvirt: str, lacks: list[str]
) -> None:
    script = f'virtualizes() {{ {virtualizes}; }}; need; too_old "$1" "$2"'
    assert sourced(script, qemu, libvirt).stdout == "".join(f" {lack}" for lack in lacks)


def test_packages_count_only_when_installed() -> None:
    script = (
        "installed='[installed] gcc 4:12.2.0-3\n[config-files] cpio 2.13\n[installed] qemu-system-x86 1:10.0.2+ds-2'\n"
        "absent gcc cpio xz-utils qemu-system-x86; echo; present qemu-system-x86"
    )
    assert sourced(script).stdout == " cpio xz-utils\n10.0.2+ds-2\n"


@pytest.mark.parametrize(
    ("uri", "here"), [("qemu:///system", True), ("qemu:///session", True), ("qemu+ssh://lab.example/system", False)]
)
def test_a_remote_hypervisor_needs_no_local_daemon(uri: str, here: bool) -> None:
    assert (sourced("URI=$1; here", uri).returncode == 0) is here


def test_without_a_command_it_says_how_it_is_called() -> None:
    done = subprocess.run(["sh", str(BOOTSTRAP)], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 2
    assert "sudo ./bootstrap labctl up" in done.stderr


def test_on_another_distribution_it_names_what_is_missing_and_exits_3() -> None:
    done = sourced("PRETTY_NAME='Some Linux 1' PROGRAMS='sh program-that-is-not-there' URI=test:///default; programs")
    assert done.returncode == 3
    assert done.stderr.endswith("Some Linux 1 lacks: program-that-is-not-there\n")


def test_an_environment_is_made_again_when_the_project_or_the_python_changed(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("one")
    script = "root=$1 venv=$1/.venv; fingerprint"
    before = sourced(script, str(tmp_path)).stdout
    (tmp_path / "pyproject.toml").write_text("two")
    after = sourced(script, str(tmp_path)).stdout
    assert before.startswith(f"{tmp_path} ")
    assert before != after
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho Python 3.99.0\n")
    python.chmod(0o755)
    assert "Python 3.99.0" in sourced(script, str(tmp_path)).stdout

"""The application object, the options that commands share, and how they find their lab."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from labctl import __version__
from labctl.console import SAYS, reader_gone
from labctl.lab import DEFAULT_URI, Lab, open_hypervisor

__all__ = ["AccelOption", "ConnectOption", "JsonOption", "LabOption", "app", "existing_lab"]


class _Commands(TyperGroup):
    """The commands; typer itself has no message for Ctrl-C, and calls a reader that went away a failure (1)."""

    def invoke(self, ctx: Any) -> Any:
        """Run what the command line says."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            SAYS.print("labctl: interrupted; the same command goes on from here", style="yellow")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            raise typer.Exit(reader_gone()) from None


app = typer.Typer(
    name="labctl",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""
Virtual labs that break on purpose.

labctl builds a lab of virtual machines from a YAML topology with linked clones on libvirt/KVM, brings up a cluster in
it, breaks it, and returns a measured verdict.

**Start here:** `labctl up` brings the shipped lab up, `labctl status` shows it, `labctl exec client -- curl
https://mail.contoso.test/` uses it, `labctl destroy` removes all of it.

**Exit codes:** 0 fine, 1 verdict failed, 2 bad input, 3 environment, 4 deadline.

**Environment:** `LABCTL_URI` is the hypervisor (default `qemu:///system`), `LABCTL_LAB` the lab that commands mean.
""",
)


class Accel(StrEnum):
    """What `--accel` takes."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


ConnectOption = Annotated[
    str,
    typer.Option("--connect", "-c", envvar="LABCTL_URI", metavar="URI", help="The hypervisor, as libvirt names it."),
]
LabOption = Annotated[
    str | None,
    typer.Option(
        "--lab", "-l", envvar="LABCTL_LAB", metavar="NAME", help="The lab; exchange2007, or the only one, by default."
    ),
]
AccelOption = Annotated[
    Accel, typer.Option("--accel", help="What runs the guests; auto takes KVM where it really works, else emulation.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on standard output, for scripts.")]


@contextmanager
def existing_lab(name: str | None, uri: str) -> Iterator[Lab]:
    """The lab that a command means, with its connection open."""
    with open_hypervisor(uri) as hypervisor:
        yield Lab.existing(hypervisor, name)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"labctl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


DEFAULT_CONNECT = DEFAULT_URI

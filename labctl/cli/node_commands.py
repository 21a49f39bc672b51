"""Commands on one node: exec, console, cp."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from labctl.cli.app import DEFAULT_CONNECT, ConnectOption, LabOption, app, existing_lab
from labctl.console import SAYS
from labctl.errors import InputError, LabError
from labctl.hypervisor.seam import Console
from labctl.lab import Lab

__all__ = ["console", "cp", "exec_"]

ESCAPE = b"\x1d"  # Ctrl-], as with telnet and virsh
_NODES = "Nodes"


@app.command("exec", rich_help_panel=_NODES, context_settings={"ignore_unknown_options": True})
def exec_(
    node: Annotated[str, typer.Argument(metavar="NODE")],
    command: Annotated[list[str], typer.Argument(metavar="CMD…", help="After `--`; not a shell line.")],
    lab: LabOption = None,
    within: Annotated[float, typer.Option("--within", metavar="SECONDS", help="Kill it after so long.")] = 3600.0,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Run a command in a node, out of band: it needs no network there.

    Its output, error output and exit code are labctl's own; standard input reaches it unless it is a terminal.
    """
    stdin = None if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    with existing_lab(lab, connect) as the_lab:
        # On the disk rather than in memory: there is no telling how much it will say.
        done = the_lab.guest(node).run(command, stdin=stdin, within_s=within, spool="/var/tmp", on_output=_pass_on)  # noqa: S108
    raise typer.Exit(done.exit_code)


def _pass_on(out: bytes, err: bytes) -> None:
    for data, stream in ((out, sys.stdout.buffer), (err, sys.stderr.buffer)):
        stream.write(data)
        stream.flush()


@app.command(rich_help_panel=_NODES)
def cp(
    source: Annotated[str, typer.Argument(metavar="[NODE:]SOURCE")],
    target: Annotated[str, typer.Argument(metavar="[NODE:]TARGET")],
    lab: LabOption = None,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Copy a file into a node or out of it, out of band, whatever is in it: `labctl cp trace.pcap client:/root/`."""
    (from_node, from_path), (to_node, to_path) = _place(source), _place(target)
    if bool(from_node) == bool(to_node):
        raise InputError(
            "one of the two must be NODE:PATH, the other a path here", hint="labctl cp FILE client:/root/FILE"
        )
    with existing_lab(lab, connect) as the_lab:
        if to_node:
            _copy_in(the_lab, Path(from_path), to_node, to_path)
        else:
            _copy_out(the_lab, from_node, from_path, Path(to_path))


def _place(text: str) -> tuple[str, str]:
    """(node, path); the node is empty for a path on this host."""
    node, colon, path = text.partition(":")
    return (node, path) if colon and "/" not in node else ("", text)


def _copy_in(lab: Lab, source: Path, node: str, target: str) -> None:
    if not source.is_file():
        raise InputError(f"{source} is not a file")
    if target.endswith("/"):
        target += source.name
    if not target.startswith("/"):
        raise InputError(f"{node}:{target} is not an absolute path")
    try:
        data = source.read_bytes()
    except OSError as error:
        raise InputError(f"{source} can't be read: {error.strerror}") from error
    lab.guest(node).write_file(target, data, mode=source.stat().st_mode & 0o777)


def _copy_out(lab: Lab, node: str, source: str, target: Path) -> None:
    if target.is_dir():
        target = target / Path(source).name
    partial = target.with_name(f".{target.name}.labctl-new")
    try:
        partial.touch()  # before much is read in vain
        try:
            partial.write_bytes(lab.guest(node).read_file(source))
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{target} can't be written: {error.strerror}") from error


@app.command(rich_help_panel=_NODES)
def console(
    node: Annotated[str, typer.Argument(metavar="NODE")],
    lab: LabOption = None,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Open a node's serial console; Ctrl-] leaves it. Works while its agent and its network don't."""
    with existing_lab(lab, connect) as the_lab:
        opened = the_lab.hypervisor.open_console(the_lab.guest(node).domain)
        try:
            with _raw_terminal():
                # Not before: what is typed until the terminal is raw is lost. A raw terminal wants the carriage return.
                SAYS.print(f"console of {node}; Ctrl-] leaves it, Enter shows the prompt", end="\r\n")
                _talk(opened)
        finally:
            opened.close()
            SAYS.print("\nleft the console")


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Every key goes to the guest as it is; the terminal is put back on every way out."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setraw(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _talk(opened: Console) -> None:
    """Pass bytes both ways until Ctrl-], the end of our input, or the end of the console."""
    ended = threading.Event()
    failures: list[LabError] = []

    def show() -> None:
        try:
            while data := opened.read():
                os.write(sys.stdout.fileno(), data)
        except LabError as failure:  # somebody else has opened it, or the node is off
            failures.append(failure)
        finally:
            ended.set()

    shows = threading.Thread(target=show, daemon=True, name="console")
    shows.start()
    try:
        _type(opened, ended)
    finally:
        opened.close()
        shows.join(1.0)  # what the guest said last is shown before we say anything
    if failures:
        raise failures[0]


def _type(opened: Console, ended: threading.Event) -> None:
    while not ended.is_set():
        ready, _, _ = select.select([sys.stdin], [], [], 0.2)
        if not ready:
            continue
        typed = os.read(sys.stdin.fileno(), 1024)
        before, escape, _ = typed.partition(ESCAPE)
        if before:
            opened.write(before)
        if escape or not typed:
            return

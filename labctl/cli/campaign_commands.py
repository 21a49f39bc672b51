"""The command that breaks a lab by chance: campaign."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from labctl import store
from labctl.campaign import Step, draw, run_step, shrunk
from labctl.checks import Result, Verdict, summary
from labctl.cli.app import DEFAULT_CONNECT, ConnectOption, LabOption, app
from labctl.cli.lab_commands import TopologyArgument
from labctl.cli.progress import reporting
from labctl.console import RESULTS
from labctl.errors import InputError
from labctl.lab import Lab, open_hypervisor

__all__ = ["campaign"]


@app.command(rich_help_panel="Labs")
def campaign(
    topology: TopologyArgument = "micro",
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Of what is drawn; another each time.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", metavar="M", min=1, help="How many faults.")] = 10,
    only: Annotated[str, typer.Option("--only", metavar="N,N…", help="Only these steps of the campaign.")] = "",
    lab: LabOption = None,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Break a lab by chance, one fault after the other, and see after each that all is well again.

    A lab that is up is set back to its ready state first, where one was saved: the same seed breaks the same lab. Stops
    at the first step that is not PASS (exit code 1), and leaves the lab as that left it. A failing sequence is tried
    again in parts, each from the ready state, to find a short one that fails, and the command that repeats that is
    printed.
    """
    seed = random.SystemRandom().randrange(1 << 31) if seed is None else seed
    with open_hypervisor(connect) as hypervisor:
        the_lab = Lab.from_topology(topology, hypervisor=hypervisor, name=lab)
        drawn = _chosen(draw(seed, steps, the_lab.spec), only)
        with reporting() as reporter:
            used = the_lab.can_be_reset()
            the_lab.up(reporter)
            if used:
                the_lab.reset(reporter)
        folder = _new(f"campaign-{the_lab.name}-{seed}")
        again = f"labctl campaign {topology} --seed {seed} --steps {steps}" + (f" --lab {lab}" if lab else "")
        RESULTS.print(f"seed {seed}, histories in {folder}", markup=False)
        done, verdict = _run(the_lab, drawn, folder)
        if verdict.passed:
            return
        RESULTS.print(summary(verdict), markup=False)
        if verdict.result is Result.FAIL and the_lab.can_be_reset():  # each try begins with the ready state
            done = _short(the_lab, done, folder)
        RESULTS.print(f"again: {again} --only {','.join(str(s.number) for s in done)}", markup=False)
    raise typer.Exit(1)


def _new(name: str) -> Path:
    """A folder for the evidence, of a run of its own: what an earlier one with the same seed left stays."""
    folders = (store.artifacts_dir() / (f"{name}-{n}" if n > 1 else name) for n in itertools.count(1))
    return next(folder for folder in folders if not folder.exists())


def _chosen(drawn: Sequence[Step], only: str) -> tuple[Step, ...]:
    if not only:
        return tuple(drawn)
    known = {str(s.number): s for s in drawn}
    unknown = [n for n in only.split(",") if n not in known]
    if unknown:
        raise InputError(f"--only {only}: there is no step {', '.join(unknown)} of {len(drawn)}")
    return tuple(known[n] for n in only.split(","))


def _run(lab: Lab, steps: Sequence[Step], folder: Path) -> tuple[tuple[Step, ...], Verdict]:
    """Do steps until one is not PASS; the steps done, and the last verdict."""
    for step in steps:
        verdict = run_step(lab, step, folder / f"step-{step.number}.jsonl")
        RESULTS.print(f"{verdict.result}  {step}", markup=False)
        if not verdict.passed:
            break
    return tuple(steps[: steps.index(step) + 1]), verdict


def _short(lab: Lab, failed: Sequence[Step], folder: Path) -> tuple[Step, ...]:
    tries = itertools.count(1)

    def fails(part: Sequence[Step]) -> bool:
        RESULTS.print(f"trying steps {', '.join(str(s.number) for s in part)} alone", markup=False)
        lab.reset()
        return _run(lab, part, folder / f"try-{next(tries)}")[1].result is Result.FAIL

    return shrunk(failed, fails)

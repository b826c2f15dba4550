"""The `pruner` command."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from collector.model import environment
from collector.model.advice import hidden_system_log
from collector.model.errors import UsageError
from collector.model.units import format_bytes, option_value
from collector.terminal import console, faults
from collector.terminal.console import Format, FormatOption, HostOption, LogOption
from collector.terminal.declare import argument, option
from collector.terminal.faults import output_may_fail
from pruner.commands import setup
from pruner.policy.options import policy_options
from pruner.policy.policy import Policy, Space

if TYPE_CHECKING:
    from collector.eventlog.log import EventLog

EXIT_STATUSES = (
    "Exit status: 0 nothing to do, or done; 1 the engine or the log cannot be used; 2 an invalid policy or "
    "option; 3 the target was not reached; 4 another pruner is running on the same log."
)

app = console.program(
    "pruner", "Remove unused images by a policy and the recorded history, when free space runs short.", EXIT_STATUSES
)


_NowOption = Annotated[bool, typer.Option("--now", help="Start even above the threshold, up to --free.")]
_FreeOption = Annotated[
    str | None, option("With --now: how much free space to reach, a share or a size (default: the target).", "SPACE")
]
_UntilFreeOption = Annotated[
    str | None,
    option("Before a job: see that this much is free (a share or a size), and exit at once if it is.", "SPACE"),
]
_AllOption = Annotated[
    bool, typer.Option("--all", "-a", help="List each item that stays, not only one line per reason.")
]
_NoTruncOption = Annotated[bool, typer.Option("--no-trunc", help="Print IDs and names in full.")]


@app.command("run", short_help="Free space, if less than the threshold is free.", epilog=EXIT_STATUSES)
@policy_options
def run(
    policy: Policy,
    log: LogOption = None,
    host: HostOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")] = False,
    now: _NowOption = False,
    free: _FreeOption = None,
    until_free: _UntilFreeOption = None,
    trigger: Annotated[
        str | None,
        option(
            "What to record as the trigger of this prune "
            "(default: manual, pre-job with --until-free; timer or early under systemd).",
            "NAME",
        ),
    ] = None,
    every: Annotated[
        str | None,
        option(
            "Keep running: prune at this interval (5m) and when the collector asks; for hosts without systemd.",
            "DURATION",
        ),
    ] = None,
    output: FormatOption = Format.TABLE,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print more on stderr.")] = False,
) -> None:
    """Free space, if less than the threshold is free.

    Stage by stage, and only as far as the target needs: stopped containers, images without a name,
    volumes, build cache, images in the policy's order, and in an emergency allowlisted images.
    """
    wanted = _wanted(now, free, until_free)
    if every is not None:
        _repeat(every, log, once=dry_run or now or until_free is not None, verbose=verbose)
        return
    if until_free is not None and wanted is not None and _enough(host, wanted, output):
        return
    from pruner.removal import run as running
    from pruner.removal.client import DockerRemovingEngine
    from pruner.report.terminal import print_plans

    console.log_to_stderr(verbose=verbose)
    opened = _log_to_prune_by(log)
    engine = DockerRemovingEngine(host)
    request = running.ManualRequest(wanted) if now or until_free is not None else None
    if dry_run:
        print_plans(running.make_plans(engine, opened, policy, running.PlanOptions(request)), output)
        return
    outcome = running.run(
        engine,
        opened,
        policy,
        trigger or ("pre-job" if until_free else running.trigger_of(opened.path, os.environ)),
        request,
    )
    with output_may_fail():
        if output is Format.JSON:
            console.print_json(running.to_json(outcome))
        else:
            typer.echo(running.summary(outcome))
    running.check_reached(outcome)


def _repeat(every: str, log: Path | None, *, once: bool, verbose: bool) -> None:
    from pruner.removal.repeat import repeat

    if once:
        raise UsageError("--every: --dry-run, --now and --until-free are for one prune: leave them out")
    seconds = console.duration("--every", every)
    console.log_to_stderr(verbose=verbose)
    repeat(_log_to_prune_by(log).path, seconds, sys.argv)


def _log_to_prune_by(log: Path | None) -> EventLog:
    """The log that the user means.

    Raises:
        UsageError: none is named, and only the service's, which this user may not read, knows what is in use here.
    """
    opened = console.open_log(log)
    if (
        log is None
        and environment.LOG not in os.environ
        and not opened.path.exists()
        and (hidden := hidden_system_log())
    ):
        raise UsageError(f"nothing is removed without the history of this machine: {hidden}, or name a log with --log")
    return opened


@app.command("plan", short_help="Print what `run` would do now, and why.")
@policy_options
def plan_(
    policy: Policy,
    log: LogOption = None,
    host: HostOption = None,
    now: _NowOption = False,
    free: _FreeOption = None,
    until_free: _UntilFreeOption = None,
    everything: _AllOption = False,
    no_trunc: _NoTruncOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Print what `run` with the same options would do now, stage by stage, with the reason for each thing."""
    wanted = _wanted(now, free, until_free)
    if until_free is not None and wanted is not None and _enough(host, wanted, output):
        return
    from collector.engine.client import DockerEngine
    from pruner.removal.run import ManualRequest, PlanOptions, make_plans
    from pruner.report.terminal import print_plans

    request = ManualRequest(wanted) if now or until_free is not None else None
    plans = make_plans(DockerEngine(host), console.open_log(log), policy, PlanOptions(request, learn=True))
    print_plans(plans, output, everything=everything, truncate=not no_trunc)


@app.command(short_help="The disk is full: show what fills it, ask once, and free it.")
@policy_options
def emergency(
    policy: Policy,
    log: LogOption = None,
    host: HostOption = None,
    free: Annotated[
        str | None, option("How much free space to reach, a share or a size (default: the target).", "SPACE")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the steps, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Show what fills the disk and what each step would free, ask once, and take the steps that are needed.

    The least harmful step comes first. No step removes what a container refers to, what a job in flight may need,
    or what the policy keeps by name, switches off or never removes.
    """
    wanted = _wanted(True, free, None)
    from collector.engine.client import DockerEngine
    from pruner.planning.emergency_steps import prospects, steps
    from pruner.removal import emergency as disk_full
    from pruner.removal import run as running
    from pruner.removal.client import DockerRemovingEngine
    from pruner.report.terminal import print_emergency

    console.log_to_stderr(verbose=False)
    opened = _log_to_prune_by(log)
    made = disk_full.look(DockerEngine(host), opened, policy, wanted, record=not dry_run)
    found = tuple(prospects(made, steps(policy)))
    with output_may_fail() if yes and not dry_run else nullcontext():
        print_emergency(made, found)
    if dry_run or not made.needed:
        return
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(
                "there is no terminal to ask at: give --yes to take these steps, or --dry-run to only see them"
            )
        if not typer.confirm("Take these steps, one after the other, until so much is free?"):
            return
    # If nothing may go, the first step says so in the log, with what stands in the way.
    chosen = [one.step for one in found if one.count] or [found[0].step]
    outcomes = []
    for outcome in disk_full.carry_out(DockerRemovingEngine(host), opened, chosen, made.levels.target[0]):
        outcomes.append(outcome)
        with output_may_fail():
            typer.echo(running.summary(outcome))
    if not any(outcome.removed or outcome.reached for outcome in outcomes):
        raise running.TargetNotReachedError(
            "nothing can be removed: see docs/howto/disk-full.md for what else frees space"
        )
    running.check_reached(outcomes[-1])


@app.command()
@policy_options
def explain(
    policy: Policy,
    image: Annotated[str, argument("A reference, a digest, or the beginning of an ID.", "IMAGE")],
    log: LogOption = None,
    host: HostOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Say why one image would be kept or removed."""
    from collector.engine.client import DockerEngine
    from pruner.removal.run import make_plan
    from pruner.report.terminal import print_story

    print_story(make_plan(DockerEngine(host), console.open_log(log), policy), image, output)


@app.command(short_help="Show what prunes removed, and what was pulled again.")
def history(
    image: Annotated[
        str | None, argument("Only of this reference, repository, glob or ID. Default: all.", "IMAGE")
    ] = None,
    log: LogOption = None,
    since: Annotated[str | None, option("Only since then: how long ago (7d), or a time (2026-11-24).", "TIME")] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show what prunes removed and why, what that freed, what was pulled again, and prunes that removed nothing."""
    from pruner.report import history as past
    from pruner.report.terminal import print_history

    opened, begun = console.open_log(log), None if since is None else past.since_when(since)
    found = past.read(opened, begun, image)
    stuck = past.fruitless(opened, begun) if image is None else []
    if output is Format.JSON:
        console.print_json({"totals": past.totals(found), "removals": found, "fruitless": stuck})
    else:
        print_history(found, stuck)


app.command("import-config", short_help="Convert another tool's settings to a policy.")(setup.import_config)
app.command("check-policy", short_help="Check a policy file before it is rolled out.")(setup.check_policy)
app.command("install-units", short_help="Write systemd units for collector and pruner.")(setup.install_units)
app.command("uninstall-units", short_help="Stop the units and remove them.")(setup.uninstall_units)


def _wanted(now: bool, free: str | None, until_free: str | None) -> Space | None:
    """The space that one run is to free; None: the policy's target.

    Raises:
        UsageError: the options contradict each other, or mean no space.
    """
    if free is not None and not now:
        raise UsageError("--free needs --now (a clean-up before a job is --until-free)")
    if now and until_free is not None:
        raise UsageError("--now and --until-free are two ways to run: give one")
    option, text = ("--free", free) if until_free is None else ("--until-free", until_free)
    if text is None:
        return None
    space = option_value(option, text, Space.parse)
    if space.unit not in {"B", "%"}:
        raise UsageError(f"{option}: '{text}' is not a share (such as 10%) or a size (such as 50GB)")
    return space


def _enough(host: str | None, wanted: Space, output: Format) -> bool:
    """Whether enough is free already; then say so."""
    from pruner.removal.free_space import free_space

    disks = free_space(host)
    if not disks or any(disk.free_bytes < wanted.of(disk.total_bytes) for disk in disks):
        return False
    disk = min(disks, key=lambda disk: disk.free_bytes)
    if output is Format.JSON:
        console.print_json(
            {"reached": True, "rounds": 0, "free_bytes": disk.free_bytes, "total_bytes": disk.total_bytes}
        )
    else:
        typer.echo(f"{format_bytes(disk.free_bytes)} of {format_bytes(disk.total_bytes)} free: nothing to do")
    return True


def main() -> NoReturn:
    """Entry point."""
    faults.run(app, "pruner")

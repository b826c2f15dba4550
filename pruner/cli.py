"""The `pruner` command."""

from __future__ import annotations

from typing import Annotated

import typer

from collector import console
from collector.console import Format, FormatOption, HostOption, LogOption, VersionOption
from collector.errors import HindsightError, UsageError
from collector.log import EventLog
from collector.units import format_bytes, format_time, short_id
from pruner.inventory import Inventory, read_history
from pruner.options import policy_options
from pruner.plan import Plan, Verdict, plan, summary
from pruner.policy import Policy

app = typer.Typer(
    name="pruner",
    help="Remove the images that a policy and the recorded history single out, while free space is short.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class TargetNotReachedError(HindsightError):
    """Less than the target is free after all that may go has gone."""

    exit_status = 3


@app.callback()
def options(*, version: VersionOption = False) -> None:
    """Options of all commands."""


@app.command("run")
@policy_options
def run(
    policy: Policy,
    log: LogOption = None,
    host: HostOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")] = False,
    trigger: Annotated[str, typer.Option(help="What the log says started this prune.")] = "manual",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")] = False,
) -> None:
    """Bring free space back, if it is under the threshold.

    Ends with 0 if nothing was to do or the target is reached, 1 if engine or log cannot be used,
    2 for an impossible policy or option, 3 if the target was not reached, 4 if another pruner is at work.
    """
    from collector.engine import Engine
    from pruner.executor import Executor, exclusive
    from pruner.survey import survey

    console.log_to_stderr(verbose=verbose)
    opened = console.open_log(log)
    engine = Engine(host)

    def replan() -> Plan:
        return planned(policy, survey(engine, opened, policy))

    if dry_run:
        print_plan(replan(), only_evictions=True)
        return
    with exclusive(opened.path):
        executor = Executor(engine, opened, trigger)
        executor.finish_interrupted(unfinished(opened))
        outcome = executor.run(replan)
    freed = format_bytes(outcome.freed)
    typer.echo(
        f"removed {len(outcome.removed)} images, freed {freed}; "
        f"{format_bytes(outcome.disk.free_bytes)} of {format_bytes(outcome.disk.total_bytes)} free"
    )
    if not outcome.reached:
        raise TargetNotReachedError(
            f"free space is still under the target after {outcome.rounds} rounds: "
            "`pruner plan` tells why each image stays"
        )


@app.command("plan")
@policy_options
def plan_(
    policy: Policy,
    log: LogOption = None,
    host: HostOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Print what `run` would do now, with the reason for every image."""
    from collector.engine import Engine
    from pruner.survey import survey

    made = planned(policy, survey(Engine(host), console.open_log(log), policy))
    if output is Format.JSON:
        console.print_json(made.to_json())
    else:
        print_plan(made)


@app.command()
@policy_options
def explain(
    policy: Policy,
    image: Annotated[str, typer.Argument(help="A reference, a digest, or the beginning of an ID.")],
    log: LogOption = None,
    host: HostOption = None,
) -> None:
    """Tell why one image would stay or go."""
    from collector.engine import Engine
    from pruner.survey import survey

    made = planned(policy, survey(Engine(host), console.open_log(log), policy))
    found = [verdict for verdict in made.verdicts if is_meant(verdict, image)]
    if not found:
        raise UsageError(f"no image on this host is '{image}': `pruner plan` lists all")
    for verdict in found:
        console.print_facts(_story(verdict))


def unfinished(log: EventLog) -> tuple[str, ...]:
    """Prunes that were interrupted."""
    return read_history(log).unfinished if log.exists() else ()


def is_meant(verdict: Verdict, text: str) -> bool:
    """Whether a user who writes `text` means this image."""
    image = verdict.image
    if text in (*image.references, *image.digests, *image.names):
        return True
    digits = text.removeprefix("sha256:")
    return len(digits) >= 4 and image.image_id.removeprefix("sha256:").startswith(digits)  # noqa: PLR2004


def print_plan(made: Plan, *, only_evictions: bool = False) -> None:
    """Print a plan: what goes, in order, then what stays."""
    for warning in made.inventory.warnings:
        console.print_text(f"warning: {warning}", "yellow")
    console.print_text(summary(made))
    verdicts = made.evictions if only_evictions else made.verdicts
    if not verdicts:
        return
    typer.echo()
    console.print_table(
        ("VERDICT", "FREES", "LAST USE", "ID", "IMAGE", "REASON"),
        [
            (
                "remove" if verdict.evicts else "keep",
                format_bytes(verdict.frees) if verdict.evicts else "-",
                format_time(verdict.image.last_use or None),
                short_id(verdict.image.image_id),
                verdict.image.name,
                verdict.detail,
            )
            for verdict in verdicts
        ],
        right=("FREES",),
        names=("IMAGE",),
        below=("REASON",),
        optional=("ID",),
    )


def planned(policy: Policy, inventory: Inventory) -> Plan:
    """A plan. Raises UsageError if the policy contradicts itself on this disk."""
    try:
        return plan(policy, inventory)
    except ValueError as error:
        raise UsageError(f"policy: {error}") from None


def _story(verdict: Verdict) -> list[tuple[str, str]]:
    image = verdict.image
    return [
        ("image", image.name),
        ("ID", image.image_id),
        ("verdict", "remove" if verdict.evicts else "keep"),
        ("reason", verdict.detail),
        ("last use", f"{format_time(image.last_use or None)} ({image.evidence})"),
        ("uses", str(image.uses)),
        ("containers", str(image.containers)),
        ("size", format_bytes(image.size)),
        ("frees", format_bytes(verdict.frees)),
        ("references", ", ".join(image.references) or "-"),
        ("also known as", ", ".join(name for name in image.names if name not in image.references) or "-"),
    ]


def main() -> None:
    """Entry point."""
    with console.faults_in_one_line("pruner"):
        app()

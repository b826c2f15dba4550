"""Commands that set a host up: policy files and systemd units."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from collector.model.errors import UsageError
from collector.model.units import size_option
from collector.terminal import console
from collector.terminal.console import Format, FormatOption, HostOption
from collector.terminal.declare import argument, option


class OtherTool(StrEnum):
    """Other tools whose settings can be read."""

    DOCKER_GC = "docker-gc"
    DOCUUM = "docuum"


def import_config(
    tool: Annotated[OtherTool, typer.Argument(help="The tool that the settings are for.")],
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="docker-gc: files with its environment and its exclude files. docuum: its unit file or script, "
            "or its arguments after --.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[Path | None, option("Write here. Default: to stdout.", "FILE", "--output", "-o")] = None,
    disk: Annotated[str | None, option("docuum: size of the engine's disk, for a threshold in bytes.", "SIZE")] = None,
) -> None:
    """Convert another tool's settings to a policy, and say on stderr what has no counterpart."""
    from pruner.policy import docker_gc, docuum, other_tools

    if tool is OtherTool.DOCKER_GC:
        made = docker_gc.import_docker_gc([Path(source) for source in sources or ()])
    else:
        made = docuum.import_docuum(sources or (), size_option("--disk", disk))
    text = made.to_toml()
    for note in made.notes:
        console.print_as_is(note, err=True)
    if target is None:
        typer.echo(text, nl=False)
    else:
        other_tools.write_new(target, text)
        typer.echo(f"wrote {target}: try it with `analyzer simulate --policy {target}`")


def check_policy(
    path: Annotated[Path, argument("The policy file.", "FILE")],
    output: FormatOption = Format.TABLE,
) -> None:
    """Check a policy file and those that it includes: print every value that they set, with its file.

    Each problem is one line on stderr; the exit status is then 2.
    """
    from pruner.policy.file import read_policy
    from pruner.report.terminal import print_policy

    found = read_policy(path)
    faults = list(found.faults)
    if found.policy.rates:
        from pruner.state.rates import read_rates

        try:
            read_rates(Path(found.policy.rates))
        except UsageError as error:
            faults.append(str(error))
    for fault in faults:
        console.print_as_is(f"pruner: {fault}", err=True)
    if faults:
        raise typer.Exit(UsageError.exit_status)
    print_policy(found, output)


_RootOption = Annotated[Path, option("Write under this root file system; run nothing there.", "FOLDER", "--root")]
_InstanceOption = Annotated[
    str, option("One engine among several: its own units, log and policy of this name.", "NAME")
]
_DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")]


def install_units(
    root: _RootOption = Path("/"),
    programs: Annotated[
        Path | None, option("Folder of the commands. Default: of this installation.", "FOLDER", "--bin")
    ] = None,
    user: Annotated[str, option("The system user that they run as; made if missing.", "USER")] = "docker-hindsight",
    instance: _InstanceOption = "",
    host: HostOption = None,
    data_root: Annotated[
        Path | None, option("The engine's data root, if it is under /home, /root or /tmp.", "FOLDER")
    ] = None,
    user_engine: Annotated[
        str | None,
        option(
            "The rootless engine of this user: the services run as the user and see the user's socket and data.",
            "NAME",
            shown=False,
        ),
    ] = None,
    enable: Annotated[bool, typer.Option("--enable", help="Start them now and at each boot.")] = False,
    dry_run: _DryRunOption = False,
) -> None:
    """Write systemd units for collector and pruner, with a timer and a trigger for a disk that fills fast."""
    from pruner.install import installer, units

    wanted = units.installation(root, programs, user, instance, host or "", data_root, user_engine)
    for line in installer.install(wanted, enable=enable, dry_run=dry_run):
        typer.echo(line)
    for line in installer.next_steps(wanted, enabled=enable):
        typer.echo(line)


def uninstall_units(
    root: _RootOption = Path("/"), instance: _InstanceOption = "", dry_run: _DryRunOption = False
) -> None:
    """Stop the units and remove them; log, policy and user stay."""
    from pruner.install import installer, units

    wanted = units.Installation(root, Path("/"), instance=instance)
    lines = installer.uninstall(wanted, dry_run=dry_run)
    for line in lines or ["no units of ours are installed"]:
        typer.echo(line)
    if lines:
        typer.echo(f"/var/lib/{wanted.state} and {wanted.policy} are still there")

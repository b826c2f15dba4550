"""The `analyzer` command."""

from __future__ import annotations

from typing import NoReturn

import typer

from analyzer.commands import choosing, comparing, seeing
from collector import faults
from collector.console import VersionOption
from collector.errors import UsageError

app = typer.Typer(
    name="analyzer",
    help="Replay what a host's log recorded under other policies, to see before pruning what each would cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def common(*, version: VersionOption = False) -> None:
    """Options of all commands."""


for command in (comparing.simulate, choosing.recommend, comparing.report, comparing.demo, choosing.sweep):
    app.command()(command)
for command in (choosing.allowlist, seeing.verify, seeing.costs, seeing.watch, seeing.export):
    app.command()(command)
app.command("baselines")(seeing.list_baselines)


def main() -> NoReturn:
    """Entry point."""
    try:
        faults.run(app, "analyzer")
    except ModuleNotFoundError as error:
        with faults.faults_in_one_line("analyzer"):
            raise UsageError(
                f"{error.name} is not installed: on the machine where you simulate, "
                "install 'docker-hindsight[analyzer]'"
            ) from None
        raise

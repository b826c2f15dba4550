"""The `analyzer` command."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from analyzer.commands import compare, inspect, rollout, search
from collector.model.errors import UsageError
from collector.terminal import faults
from collector.terminal.console import program

app = program(
    "analyzer", "Replay what a host's log recorded under other policies, to see before pruning what each would cost."
)

# What the list of commands says of each; its own help says more.
COMMANDS: dict[str, tuple[Callable[..., None], str]] = {
    "simulate": (compare.simulate, "Compare policies and baselines on the history."),
    "recommend": (search.recommend, "Pick a policy, write it to a file, and say why."),
    "rates": (rollout.rates, "Write what a fleet knows, for new hosts."),
    "rollout": (rollout.rollout, "Choose the hosts to start with, and judge them later."),
    "report": (compare.report, "Write what the log shows as one HTML file."),
    "demo": (compare.demo, "Simulate a year of a public project's CI (Mesa, 2023)."),
    "sweep": (search.sweep, "Try a grid of policies and mark those that none beats."),
    "allowlist": (search.allowlist, "Propose which repositories are worth protecting."),
    "verify": (inspect.verify, "Compare recorded prunes with what the policy asks for."),
    "costs": (inspect.costs, "Show who fills the disk and who paid for pulls."),
    "watch": (inspect.watch, "Watch this host live, and what would go next."),
    "export": (inspect.export, "Write the log as Parquet, for fleets and other tools."),
    "baselines": (inspect.list_baselines, "List what `simulate --baseline` knows."),
}
for name, (command, summary) in COMMANDS.items():
    app.command(name, short_help=summary)(command)


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

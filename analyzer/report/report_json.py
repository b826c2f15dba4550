"""What a report says, for machines: its figures and its recommendation, without what only draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analyzer.report.fleet_page import FleetStudy
from analyzer.search.fleet import FLEET
from analyzer.search.proposal import Proposal
from analyzer.simulation.result import Result
from analyzer.trace.describe import HistoryFacts
from collector.model.paths import real_path
from pruner.policy.file import to_json


def of_host(facts: HistoryFacts, results: Sequence[Result], proposal: Proposal, path: Path) -> dict[str, Any]:
    """The report of one host, as `simulate` gives it, with what is recommended."""
    return {**facts.to_json(), **_proposed(proposal), "policies": list(results), "report": str(real_path(path))}


def of_fleet(made: FleetStudy, path: Path) -> dict[str, Any]:
    """The report of several hosts: each policy on each of them, and on all together."""
    groups = [*((host.name, host.results) for host in made.hosts), (FLEET, made.sums)]
    return {
        "hosts": [host.facts.to_json() for host in made.hosts],
        "notes": list(made.notes),
        **_proposed(made.lineup.proposal),
        "all_policies": list(made.common),
        "policies": [{"host": name, **result.to_json()} for name, results in groups for result in results],
        "report": str(real_path(path)),
    }


def _proposed(proposal: Proposal) -> Mapping[str, Any]:
    return {
        "recommended": None if proposal.policy is None else to_json(proposal.policy),
        "recommended_name": proposal.name,
        "meets_constraints": proposal.holds,
        "why": list(proposal.said),
    }

"""What `analyzer verify` prints."""

from __future__ import annotations

from collections.abc import Sequence

from analyzer.audit.verify import PruneCheck, agreement
from collector.model.units import format_count, format_time
from collector.terminal import console


def print_checks(checks: Sequence[PruneCheck]) -> None:
    """Print one row per prune, then every disagreement with its cause."""
    rows = [
        (
            format_time(made.started),
            made.trigger or "-",
            str(sum(check.removed for check in made.images)) if made.skipped is None else "-",
            str(len(made.images)) if made.skipped is None else "-",
            f"{made.agreement:.1%}" if made.skipped is None else "-",
            made.policy,
        )
        for made in checks
    ]
    columns = ("STARTED", "TRIGGER", "REMOVED", "IMAGES", "AGREEMENT", "POLICY")
    console.print_table(columns, rows, right=columns[2:5], below=("POLICY",))
    for made in checks:
        if made.skipped is not None:
            console.print_text(f"{format_time(made.started)}: not replayed: {made.skipped}")
        for check in made.images:
            done = "kept at the last moment" if check.kept else "removed" if check.removed else "kept"
            if check.kept or not check.agrees:
                console.print_text(f"{format_time(made.started)}: {check.name} was {done}: {check.cause}")
    share = agreement(checks)
    if share is not None:
        images = sum(len(made.images) for made in checks)
        kept = sum(check.kept for made in checks for check in made.images)
        late = f", {kept} of them kept at the last moment for a recorded reason" if kept else ""
        console.print_text(f"{share:.1%} of {images} verdicts on images are what the history says{late}.")
    held = [check.asked for made in checks for check in made.images if check.job is not None]
    if held:
        times, vain = format_count(len(held), "time"), format_count(held.count(False), "time")
        console.print_text(f"Jobs in flight held an image {times}; {vain} the job then had no container of it.")

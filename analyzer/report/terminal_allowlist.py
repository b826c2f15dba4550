"""The report of what allowlist entries gain and cost, for people and machines."""

from __future__ import annotations

import json

import typer

from analyzer.report.terminal import print_heading
from analyzer.search.allowlist import Earned, Entry
from analyzer.trace.trace import Trace
from collector.model.units import format_bytes, format_count
from collector.terminal import console
from pruner.policy.policy import Policy


def print_earned(trace: Trace, policy: Policy, earned: Earned, output: console.Format) -> None:
    """Print what each allowlist entry gains or costs."""
    first, rest = earned.without
    if output is console.Format.JSON:
        console.print_json(
            {
                "host": trace.host,
                "policy": str(policy),
                "considered": earned.considered,
                "allowlist": list(earned.allowlist),
                "repulled_bytes_without": [first.repulled_bytes, None if rest is None else rest.repulled_bytes],
                "entries": [
                    {
                        "entry": entry.glob,
                        "proposed": entry.glob in earned.allowlist,
                        "gain_first_bytes": entry.gain_first,
                        "gain_rest_bytes": entry.gain_rest,
                        "more_disk_full": entry.incidents,
                        "verdict": verdict(entry),
                    }
                    for entry in earned.entries
                ],
            }
        )
        return
    print_heading(trace, first.compulsory_bytes + (0 if rest is None else rest.compulsory_bytes))
    later = "" if rest is None else f" on the first part, {format_bytes(rest.repulled_bytes)} on the rest"
    console.print_text(
        f"without an allowlist this policy pulls {format_bytes(first.repulled_bytes)} again{later}; "
        f"{earned.considered} globs were tried"
    )
    typer.echo()
    if not earned.entries:
        why = "No entry gains anything" if first.repulled_bytes else "Nothing is pulled again, so no entry can gain"
        console.print_text(f"{why}: leave the allowlist empty.")
        return
    rows = [
        [
            entry.glob,
            format_bytes(entry.gain_first),
            "-" if entry.gain_rest is None else format_bytes(entry.gain_rest),
            f"{entry.incidents:+,}" if entry.incidents else "0",
            verdict(entry),
        ]
        for entry in earned.entries
    ]
    console.print_table(
        ("ENTRY", "GAIN", "ON THE REST", "FAILED PULLS", "VERDICT"),
        rows,
        right=("GAIN", "ON THE REST", "FAILED PULLS"),
        names=("ENTRY",),
        below=("VERDICT",),
    )
    typer.echo()
    if earned.allowlist:
        console.print_text(f"allowlist = {json.dumps(list(earned.allowlist), ensure_ascii=False)}")


def verdict(entry: Entry) -> str:
    """In words whether an entry is worth its place."""
    if entry.incidents > 0:
        return f"costs {format_count(entry.incidents, 'disk-full incident')}: leave it out"
    if entry.gain > 0:
        return f"saves {format_bytes(entry.gain)}"
    if entry.gain < 0:
        return f"costs {format_bytes(-entry.gain)} pulled again: leave it out"
    return "gains nothing: leave it out"

"""What the pruner prints: plans and the story of one image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from collector.model.errors import UsageError
from collector.model.origin import MEANING
from collector.model.references import meant, similar
from collector.model.units import format_bytes, format_duration, format_time, short_id
from collector.terminal import console
from collector.terminal.console import Format
from pruner.planning.plan import Plan, Verdict, summary
from pruner.planning.stages import Item, ItemKind
from pruner.policy.file import PolicyFile, to_json
from pruner.report.history import Past, history_summary


def print_plans(plans: Sequence[Plan], output: console.Format, *, only_removals: bool = False) -> None:
    """Print a plan for each of an engine's disks; as JSON, that of the images' disk with the others in it."""
    main, *others = plans
    if output is console.Format.JSON:
        rest = {"other_disks": [made.to_json() for made in others]} if others else {}
        console.print_json({**main.to_json(), **rest})
        return
    for number, made in enumerate(plans):
        if number:
            typer.echo()
        print_plan(made, only_removals=only_removals)


def print_plan(made: Plan, *, only_removals: bool = False) -> None:
    """Print a plan: what goes, stage by stage and in order, then what stays."""
    for warning in made.inventory.warnings:
        console.print_text(f"warning: {warning}", "yellow")
    console.print_text(summary(made))
    going = [removal.of for removal in made.removals]
    judged: list[Item | Verdict] = [*made.items, *made.verdicts]
    staying = [one for one in judged if not _goes(one)]
    shown = going if only_removals else [*going, *staying]
    if not shown:
        return
    typer.echo()
    console.print_table(
        ("VERDICT", "KIND", "FREES", "LAST USE", "ID", "NAME", "REASON"),
        [_row(one) for one in shown],
        right=("FREES",),
        names=("NAME",),
        below=("REASON",),
        optional=("ID",),
    )


def print_story(made: Plan, image: str) -> None:
    """Print why one image stays or goes.

    Raises:
        UsageError: the host has no such image.
    """
    called = {verdict.image.image_id: verdict.image.names for verdict in made.verdicts}
    found = set(meant(image, called))
    if not found:
        like = similar(image, called)
        hint = f"did you mean {' or '.join(like)}?" if like else "`pruner plan` lists all"
        raise UsageError(f"no image on this host is '{image}': {hint}")
    for verdict in made.verdicts:
        if verdict.image.image_id in found:
            console.print_facts(_story(verdict))


def _goes(one: Item | Verdict) -> bool:
    return one.is_removed if isinstance(one, Item) else one.evicts


def _row(one: Item | Verdict) -> tuple[str, ...]:
    goes = _goes(one)
    if isinstance(one, Verdict):
        kind, key, name = ItemKind.IMAGE, short_id(one.image.image_id), one.image.name
        last: float | None = one.image.last_use or None
    else:
        kind, name, last = one.kind, one.name, _last_use(one)
        key = one.key[:12] if kind is ItemKind.CONTAINER else "-"
    verdict, frees = ("remove", format_bytes(one.frees)) if goes else ("keep", "-")
    return verdict, kind.value.replace("_", " "), frees, format_time(last), key, name, one.detail


def _last_use(item: Item) -> float | None:
    for name in ("stopped_at", "last_use"):
        if (found := getattr(item.subject, name, None)) is not None:
            return float(found) or None
    return None


def _story(verdict: Verdict) -> list[tuple[str, str]]:
    image = verdict.image
    return [
        ("image", image.name),
        ("ID", image.image_id),
        ("verdict", "remove" if verdict.evicts else "keep"),
        ("reason", verdict.detail),
        ("origin", MEANING[image.origin]),
        ("last use", f"{format_time(image.last_use or None)} ({image.evidence})"),
        ("uses", str(image.uses)),
        ("containers", str(image.containers)),
        ("size", format_bytes(image.size)),
        ("frees", format_bytes(verdict.frees)),
        ("references", ", ".join(image.references) or "-"),
        ("also known as", ", ".join(name for name in image.names if name not in image.references) or "-"),
    ]


def print_history(found: Sequence[Past]) -> None:
    """Print removals and their regret, then all in one line."""
    if found:
        console.print_table(
            ("REMOVED", "BY", "KIND", "FREED", "NAME", "AGAIN", "USES SINCE", "WHY"),
            [_removal(one) for one in found],
            right=("FREED", "USES SINCE"),
            names=("NAME",),
            below=("WHY",),
            optional=("BY", "KIND"),
        )
        typer.echo()
    console.print_text(history_summary(found))


def _removal(one: Past) -> tuple[str, ...]:
    again = "-" if one.returned_at is None else f"{one.returned_by} after {format_duration(one.returned_after)}"
    return (
        format_time(one.time),
        one.trigger,
        one.item.replace("_", " "),
        format_bytes(one.freed if one.freed is not None else one.predicted),
        one.name,
        again,
        str(one.later_uses) if one.item == "image" else "-",
        f"{one.detail}; used meanwhile: {', '.join(use['what'] for use in one.concurrent_uses)}"
        if one.concurrent_uses
        else one.detail,
    )


def print_policy(found: PolicyFile, output: Format) -> None:
    """Print what a policy file sets, and where each value is from."""
    values = to_json(found.policy)
    if output is Format.JSON:
        console.print_json({"policy": values, "from": {name: str(path) for name, path in found.origin.items()}})
        return
    rows = [(name, _value(values[name]), str(path)) for name, path in sorted(found.origin.items())]
    if rows:
        console.print_table(("KEY", "VALUE", "FROM"), rows, names=("VALUE", "FROM"))
    console.print_text(f"{len(values) - len(rows)} of {len(values)} keys have their default value")


def _value(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)

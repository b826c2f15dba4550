"""What the pruner prints: plans and the story of one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import typer

from collector.eventlog.recent_uses import RECENT_DAYS
from collector.machine.prune_runs import Fruitless
from collector.model.errors import UsageError
from collector.model.origin import MEANING
from collector.model.references import meant, similar
from collector.model.units import format_bytes, format_count, format_duration, format_time, short_id
from collector.terminal import console
from collector.terminal.console import Format
from collector.terminal.table import shorten
from pruner.planning.decision import MEANING as MEANING_OF_REASON
from pruner.planning.decision import Reason
from pruner.planning.emergency_steps import Prospect
from pruner.planning.held_back import held_back
from pruner.planning.holdings import described
from pruner.planning.holdings import to_json as holdings_as_json
from pruner.planning.image_stages import Verdict
from pruner.planning.plan import Plan, Removal, next_in_line
from pruner.planning.stages import ITEM_REASON_MEANING, Item, ItemKind
from pruner.planning.summary import summary
from pruner.policy.file import COMMAND_LINE, PolicyFile, to_json
from pruner.policy.orders import RATE_ORDERS
from pruner.policy.policy import Policy
from pruner.report.history import PastRemoval, history_summary

_NEXT_SHOWN = 5
_NAME_WIDTH = 60


def plan_as_json(made: Plan) -> dict[str, Any]:
    """A plan for machines, as `Plan.to_json` has it, and what stands in the way of the target."""
    return {
        **made.to_json(),
        "policy_from": dict(made.policy.sources),
        "holdings": holdings_as_json(made.inventory),
        "held_back": [asdict(one) for one in held_back(made)] if made.needed and not made.reaches_target else [],
    }


def print_plans(
    plans: Sequence[Plan], output: console.Format, *, everything: bool = False, truncate: bool = True
) -> None:
    """Print a plan for each of an engine's disks; as JSON, that of the images' disk with the others in it."""
    main, *others = plans
    if output is console.Format.JSON:
        rest = {"other_disks": [plan_as_json(made) for made in others]} if others else {}
        console.print_json({**plan_as_json(main), **rest})
        return
    for number, made in enumerate(plans):
        if number:
            typer.echo()
        print_plan(made, everything=everything, truncate=truncate)


def print_plan(made: Plan, *, everything: bool = False, truncate: bool = True) -> None:
    """Print a plan: what goes, stage by stage and in order, then what stays and what comes next.

    Args:
        made: the plan.
        everything: whether each thing that stays has a line; else those with one reason share it.
        truncate: whether IDs and names may be shortened.
    """
    for warning in made.inventory.warnings:
        console.print_text(f"warning: {warning}", "yellow")
    console.print_text(summary(made))
    if origin := _policy_origin(made.policy):
        console.print_text(origin)
    if made.policy.min_age_evidence:
        console.print_text(f"min age {made.policy.age_explained}")
    if order := _order_origin(made):
        console.print_text(order)
    for line in described(made.inventory):
        console.print_text(line)
    judged: list[Item | Verdict] = [*made.items, *made.verdicts]
    staying = [one for one in judged if not _goes(one)]
    going = [removal.of for removal in made.removals]
    if made.needed or everything:
        _print_items([*going, *(staying if everything else ())], made, truncate=truncate)
    if staying and not everything:
        _print_folded(staying)
    _print_next(made, truncate=truncate)


def _policy_origin(policy: Policy) -> str:
    """The values that are not the defaults and where each is from, if some are from files; else empty."""
    if all(source == COMMAND_LINE for _, source in policy.sources):
        return ""
    values, defaults = to_json(policy), to_json(Policy())
    by_source: dict[str, list[str]] = {}
    for name, source in policy.sources:
        changed = by_source.setdefault(source, [])
        if values[name] != defaults[name]:
            changed.append(f"{name} = {_value(values[name])}")
    shown = [f"{', '.join(changed)} ({source})" for source, changed in by_source.items() if changed]
    return "policy: " + ("; ".join(shown) or f"the defaults ({', '.join(by_source)})")


def _order_origin(made: Plan) -> str:
    """What the order of the images that go stands on, if it goes by rates of return; else empty."""
    if made.policy.order not in RATE_ORDERS or not any(verdict.evicts for verdict in made.verdicts):
        return ""
    returns = round(sum(made.inventory.learned.returns))
    if not returns:
        return f"order {made.policy.order}: nothing learned here yet, so general experience (it learns at midnight UTC)"
    learned = format_count(returns, "return")
    return f"order {made.policy.order}: learned from {learned} of images, beside general experience"


def _print_items(shown: Sequence[Item | Verdict], made: Plan, *, truncate: bool) -> None:
    if not shown:
        return
    typer.echo()
    console.print_table(
        ("VERDICT", "KIND", "FREES", "LAST USE", "ID", "NAME", "REASON"),
        [_row(one, made.inventory.now, truncate=truncate) for one in shown],
        right=("FREES",),
        names=("NAME",) if truncate else (),
        below=("REASON",),
        optional=("ID",) if truncate else (),
    )


def _print_folded(staying: Sequence[Item | Verdict]) -> None:
    """What stays, a line for each kind and reason."""
    groups: dict[tuple[str, str], list[Item | Verdict]] = {}
    for one in staying:
        kind = ItemKind.IMAGE if isinstance(one, Verdict) else one.kind
        groups.setdefault((kind.value.replace("_", " "), _general_reason(one)), []).append(one)
    typer.echo()
    console.print_table(
        ("STAYS", "KIND", "HOLDS", "REASON"),
        [(f"{len(group):,}", kind, format_bytes(_held_by(group)), reason) for (kind, reason), group in groups.items()],
        right=("STAYS", "HOLDS"),
        below=("REASON",),
    )


def _general_reason(one: Item | Verdict) -> str:
    return MEANING_OF_REASON[one.reason] if isinstance(one, Verdict) else ITEM_REASON_MEANING[one.reason]


def _held_by(group: Sequence[Item | Verdict]) -> int:
    """Bytes that things hold together: a layer that images share counts once."""
    images = [one.image for one in group if isinstance(one, Verdict)]
    layers = dict(layer for image in images for layer in image.layers or ((image.image_id, image.size),))
    return sum(layers.values()) + sum(one.subject.bytes for one in group if isinstance(one, Item))


def _print_next(made: Plan, *, truncate: bool) -> None:
    """What the rules of the allowlist mean here, what stands in the way or would go next, and the next step."""
    typer.echo()
    protected = sum(one.reason is Reason.PROTECTED for one in made.verdicts)
    if made.policy.allowlist:
        console.print_text(_allowlist_explained(made, protected))
    if made.needed and not made.reaches_target:
        for one in held_back(made):
            console.print_text(f"held back: {one}")
    if not made.needed:
        following = next_in_line(made)
        if following:
            shown = [_name_of(one, truncate=truncate) for one in following[:_NEXT_SHOWN]]
            more = f" and {len(following) - _NEXT_SHOWN:,} more" if len(following) > _NEXT_SHOWN else ""
            console.print_text(f"if space ran out, these would go next: {', '.join(shown)}{more}")
    console.print_text(_next_step(made))


def _allowlist_explained(made: Plan, protected: int) -> str:
    policy, level = made.policy, made.levels.emergency[0]
    emergency = "never go" if level < 0 else f"go, after all others, while less than {format_bytes(level)} is free"
    return (
        f"allowlist: it keeps {format_count(protected, 'image')} now; allowlisted images {emergency} (emergency), and "
        f"count as others once unused for {format_duration(policy.allowlist_idle)} (allowlist_idle)"
    )


def _next_step(made: Plan) -> str:
    if not made.needed:
        return "next: nothing to do; `pruner plan --now --free SPACE` shows what would give more space"
    if not made.removals and held_back(made):
        return "next: choose one of the options above, and look at the plan again"
    if not made.removals:
        return "next: no option alone would free more; `pruner emergency --dry-run` shows every step that is left"
    return "next: `pruner run` with the same options carries this out; `pruner explain IMAGE` gives an image's reason"


def _name_of(one: Removal, *, truncate: bool) -> str:
    name = shorten(one.name, _NAME_WIDTH) if truncate else one.name
    return f"{name} ({format_bytes(one.frees)})"


def print_emergency(made: Plan, found: Sequence[Prospect]) -> None:
    """Print what fills the disk, and what each step would free at which cost."""
    disk = made.inventory.disk
    console.print_text(
        f"{format_bytes(disk.free_bytes)} of {format_bytes(disk.total_bytes)} free, "
        f"{format_bytes(made.levels.target[0])} asked for"
    )
    for line in described(made.inventory):
        console.print_text(line)
    if not made.needed:
        console.print_text("that much is free already: nothing to do")
        return
    typer.echo()
    left = made.levels.target[0] - disk.free_bytes
    rows = []
    for number, one in enumerate(found, start=1):
        needed = "-" if not one.count else "yes" if left > 0 else "no"
        rows.append((str(number), one.step.title, f"{one.count:,}", format_bytes(one.gain), needed, one.step.cost))
        left -= one.gain
    console.print_table(
        ("STEP", "WHAT GOES", "THINGS", "GIVES", "NEEDED", "COSTS"),
        rows,
        right=("STEP", "THINGS", "GIVES"),
        below=("COSTS",),
    )
    if left > 0:
        typer.echo()
        console.print_text(
            f"all steps together leave {format_bytes(made.levels.target[0] - left)} of "
            f"{format_bytes(disk.total_bytes)} free, {format_bytes(left)} less than asked for"
        )


def print_story(made: Plan, image: str, output: console.Format = console.Format.TABLE) -> None:
    """Print why one image stays or goes; as JSON a list, for the beginning of an ID may mean several.

    Raises:
        UsageError: the host has no such image.
    """
    called = {verdict.image.image_id: verdict.image.names for verdict in made.verdicts}
    found = set(meant(image, called))
    if not found:
        like = similar(image, called)
        hint = f"did you mean {' or '.join(like)}?" if like else "`pruner plan` lists all"
        raise UsageError(f"no image on this host is '{image}': {hint}")
    verdicts = [verdict for verdict in made.verdicts if verdict.image.image_id in found]
    if output is console.Format.JSON:
        console.print_json([_story_as_json(verdict) for verdict in verdicts])
        return
    for warning in made.inventory.warnings:
        console.print_text(f"warning: {warning}", "yellow")
    for verdict in verdicts:
        forecast = [("forecast by", _past_use(verdict, made.inventory.now))] if made.policy.order == "forecast" else []
        console.print_facts([*_story(verdict), *forecast, ("min age", made.policy.age_explained)])


def _story_as_json(verdict: Verdict) -> dict[str, Any]:
    """The same for machines. Times are UTC seconds, sizes bytes."""
    image = verdict.image
    return {
        "image_id": image.image_id,
        "references": list(image.references),
        "names": list(image.names),
        "removed": verdict.evicts,
        "reason": verdict.reason.word,
        "detail": verdict.detail,
        "origin": image.origin.value,
        "last_use": image.last_use or None,
        "evidence": image.evidence,
        "uses": image.uses,
        "containers": image.containers,
        "size_bytes": image.size,
        "frees_bytes": verdict.frees,
    }


def _goes(one: Item | Verdict) -> bool:
    return one.is_removed if isinstance(one, Item) else one.evicts


def _row(one: Item | Verdict, now: float, *, truncate: bool) -> tuple[str, ...]:
    goes = _goes(one)
    if isinstance(one, Verdict):
        kind, key, name = ItemKind.IMAGE, one.image.image_id, one.image.name
        last: float | None = one.image.last_use or None
    else:
        kind, name, last = one.kind, one.name, _last_use(one)
        key = one.key if kind in {ItemKind.CONTAINER, ItemKind.LOG} else "-"
    verdict, frees = ("remove", format_bytes(one.frees)) if goes else ("keep", "-")
    used = "-" if last is None else f"{format_duration(max(0.0, now - last))} ago"
    return verdict, kind.value.replace("_", " "), frees, used, short_id(key) if truncate else key, name, one.detail


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


def _past_use(verdict: Verdict, now: float) -> str:
    """The facts from which the image's return is forecast."""
    image = verdict.image
    return ", ".join(
        (
            f"idle for {format_duration(max(0.0, now - image.last_use))}",
            f"usually for {format_duration(image.gap)}" if image.gap else "not used again after an hour or more so far",
            "superseded by a later image" if image.superseded <= now else "not superseded",
            f"used {format_count(image.uses, 'time')}",
            f"its repository {format_count(image.recent, 'time')} in {RECENT_DAYS} days",
        )
    )


def print_history(found: Sequence[PastRemoval], stuck: Sequence[Fruitless] = ()) -> None:
    """Print removals and their regret, runs that removed nothing, then all in one line."""
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
    for one in stuck:
        console.print_text(_standstill(one))
    console.print_text(history_summary(found))


def _standstill(one: Fruitless) -> str:
    """Runs that removed nothing, in one line."""
    if one.runs == 1:
        return f"1 run at {format_time(one.since)} removed nothing: {one.reasons}"
    return f"{one.runs} runs from {format_time(one.since)} to {format_time(one.until)} removed nothing: {one.reasons}"


def _removal(one: PastRemoval) -> tuple[str, ...]:
    again = "-" if one.returned_at is None else f"{one.returned_by} after {format_duration(one.returned_after)}"
    if one.missed_at is not None:
        again = f"PULL FAILED after {format_duration(one.missed_at - one.time)}"
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
    console.print_text(f"{len(values) - len(rows)} of {len(values)} keys are not set and have their defaults")


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)

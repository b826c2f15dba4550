"""Who fills the disk, and who paid for pulls, as recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from analyzer.audit.grouping import By
from analyzer.trace.hosts import choose_host
from collector.eventlog.log import EventLog
from collector.model.jobs import HELPER_ROLES
from collector.queries.failures import failed_pulls_by_job
from collector.queries.pulls import Layers, Pull, PullKind, read_layers, read_pulls

NOBODY = "(no job)"
NEVER_CAME = "(images that never came)"


@dataclass(frozen=True, slots=True)
class Cost:
    """What one project, ref or image costs. Sizes are bytes.

    Attributes:
        name: the project's path or ID, with its ref; or the image's name.
        jobs: how many jobs it ran, of the jobs' helpers nothing is counted.
        images: how many images they used that the engine holds now.
        held_bytes: of these images' layers, each counted once.
        own_bytes: of the layers among them that nobody else's images have.
        first_pulls: pulls of images that were new to the host, and `first_bytes` of them.
        repulls: pulls of images that had been there before, and `repulled_bytes` of them.
        failed_pulls: pulls that failed, as its runners' logs say.
    """

    name: str
    jobs: int
    images: int
    held_bytes: int
    own_bytes: int
    first_pulls: int
    first_bytes: int
    repulls: int
    repulled_bytes: int
    failed_pulls: int = 0


def costs(log: EventLog, by: By, host: str | None = None) -> list[Cost]:
    """What each project, ref or image costs: who holds most comes first.

    Args:
        log: the log.
        by: what to group costs by.
        host: whose; None: of the only one.

    Raises:
        LogError: the log cannot be read, or holds several hosts and none is chosen.
    """
    with log.reading() as connection:
        host = choose_host(connection, host, log)
        names = dict(
            connection.execute(
                "SELECT image, coalesce(name, image_id) FROM image_names WHERE host = ?", [host]
            ).fetchall()
        )
        owners = {job: (project, ref) for job, project, ref in connection.execute(_OWNERS, [host]).fetchall()}
        uses = connection.execute(_USES, [host]).fetchall()
        held = {
            row[0] for row in connection.execute("SELECT image FROM present_images WHERE host = ?", [host]).fetchall()
        }
        layers = read_layers(connection, host)
        pulls = read_pulls(connection, host)
        failed = failed_pulls_by_job(connection, host)

    def name(image: int | None, job: int | None) -> str:
        if by is By.IMAGE:
            return str(names.get(image) or image or NEVER_CAME)
        if job is None:
            return NOBODY
        project, ref = owners[job]
        return project if by is By.PROJECT else f"{project} {ref or '(no ref)'}"

    used = [(name(image, job), image, job) for image, job in uses]
    # What no job has used is there all the same.
    idle = held - {image for _, image, _ in used}
    found = _sum([*used, *((name(image, None), image, None) for image in sorted(idle))], held, layers, pulls, name)
    return _with_failed(found, Counter(name(image, job) for job, image in failed))


def _with_failed(found: list[Cost], failed: Counter[str]) -> list[Cost]:
    """The same with failed pulls; who has nothing else comes last."""
    known = {cost.name for cost in found}
    others = [Cost(name, 0, 0, 0, 0, 0, 0, 0, 0) for name in sorted(failed) if name not in known]
    return [replace(cost, failed_pulls=failed[cost.name]) for cost in [*found, *others]]


def _sum(
    used: Iterable[tuple[str, int, int | None]],
    held: set[int],
    layers: Layers,
    pulls: Iterable[Pull],
    name: Callable[[int, int | None], str],
) -> list[Cost]:
    jobs: dict[str, set[int]] = {}
    images: dict[str, set[int]] = {}
    for group, image, job in used:
        images.setdefault(group, set()).update({image} & held)
        jobs.setdefault(group, set()).update(() if job is None else (job,))
    paid: dict[str, list[Pull]] = {}
    for pull in pulls:
        paid.setdefault(name(pull.image, pull.job), []).append(pull)
    chains = {
        group: {chain: size for image in own for chain, size in layers.get(image, ())} for group, own in images.items()
    }
    holders: dict[str, int] = {}
    for own in chains.values():
        for chain in own:
            holders[chain] = holders.get(chain, 0) + 1
    found = []
    for group in sorted({*images, *paid}):
        own = chains.get(group, {})
        first = [pull.bytes for pull in paid.get(group, []) if pull.kind is PullKind.FIRST]
        again = [pull.bytes for pull in paid.get(group, []) if pull.kind is PullKind.AGAIN]
        alone = sum(size for chain, size in own.items() if holders[chain] == 1)
        found.append(
            Cost(
                group,
                len(jobs.get(group, ())),
                len(images.get(group, ())),
                sum(own.values()),
                alone,
                len(first),
                sum(first),
                len(again),
                sum(again),
            )
        )
    return sorted(found, key=lambda cost: (-cost.held_bytes, -cost.repulled_bytes, cost.name))


_OWNERS = """
SELECT job, coalesce(project, 'project ' || project_id, ci), ref FROM job WHERE host = ?
"""
_HELPERS = ", ".join(f"'{role}'" for role in sorted(HELPER_ROLES))
_USES = f"""
SELECT DISTINCT image, job FROM job_images
WHERE host = ? AND image IS NOT NULL AND (role IS NULL OR role NOT IN ({_HELPERS})) ORDER BY image, job
"""

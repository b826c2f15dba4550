"""Who fills the disk, and who paid for pulls, as recorded."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from analyzer.audit.grouping import By
from analyzer.trace.hosts import choose_host
from collector.eventlog.log import EventLog
from collector.eventlog.sql import CHOSEN_BY_JOB
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
    failed_pulls: int


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
    used += [(name(image, None), image, None) for image in sorted(idle)]
    paid: dict[str, list[Pull]] = defaultdict(list)
    for pull in pulls:
        paid[name(pull.image, pull.job)].append(pull)
    return _sum(used, held, layers, paid, Counter(name(image, job) for job, image in failed))


def _sum(
    used: Iterable[tuple[str, int, int | None]],
    held: set[int],
    layers: Layers,
    paid: Mapping[str, Sequence[Pull]],
    failed: Counter[str],
) -> list[Cost]:
    jobs: dict[str, set[int]] = defaultdict(set)
    images: dict[str, set[int]] = defaultdict(set)
    for group, image, job in used:
        images[group] |= {image} & held
        jobs[group] |= set() if job is None else {job}
    chains = {
        group: {chain: size for image in own for chain, size in layers.get(image, ())} for group, own in images.items()
    }
    holders = Counter(chain for own in chains.values() for chain in own)
    known = {*images, *paid}
    found = []
    # Who has nothing but failed pulls comes last.
    for group in (*sorted(known), *sorted(failed.keys() - known)):
        own, pulls = chains.get(group, {}), paid.get(group, ())
        first = [pull.bytes for pull in pulls if pull.kind is PullKind.FIRST]
        again = [pull.bytes for pull in pulls if pull.kind is PullKind.AGAIN]
        alone = sum(size for chain, size in own.items() if holders[chain] == 1)
        found.append(
            Cost(
                *(group, len(jobs[group]), len(images[group]), sum(own.values()), alone),
                *(len(first), sum(first), len(again), sum(again), failed[group]),
            )
        )
    return sorted(found, key=lambda cost: (-cost.held_bytes, -cost.repulled_bytes))


_OWNERS = """
SELECT job, coalesce(project, 'project ' || project_id, ci), ref FROM job WHERE host = ?
"""
_USES = f"""
SELECT DISTINCT image, job FROM job_images
WHERE host = ? AND image IS NOT NULL AND {CHOSEN_BY_JOB} ORDER BY image, job
"""

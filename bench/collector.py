"""What the collector weighs on a runner, beside ``docker events`` writing to a file: ``python -m bench collector``."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench._costs import of_command, private_engine, processor_seconds
from bench._traffic import tag_and_untag
from collector.model.units import format_bytes
from collector.queries.overview import overview
from collector.terminal import console
from tests.engine.engines import Engine
from tests.engine.host import Host

EVENTS = 10_000
IDLE_S = 60.0
REPEATS = 5
_WRITERS = 2


@dataclass(frozen=True)
class Weight:
    """What a process has taken: CPU seconds, bytes of memory in all, and those that nothing but its end gives back."""

    cpu: float
    resident: int
    own: int

    @classmethod
    def of(cls, pid: int) -> Weight:
        """Weigh a process."""
        rows = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]]
        sizes = {row[0].removesuffix(":"): int(row[1]) * 1024 for row in rows}
        # Clean pages are those of program files: the kernel takes them back when it wants to.
        return cls(processor_seconds(pid), sizes["Rss"], sizes["Private_Dirty"])


def main() -> None:
    """Measure, and print two tables."""
    with private_engine("bench") as engine:
        _measure(engine)


def _measure(engine: Engine) -> None:
    host = Host(engine, engine.folder / "log" / "events.duckdb")
    client = engine.client()
    client.api.import_image_from_data(b"\0" * 1024, repository="bench", tag="1")
    client.close()
    events = engine.folder / "docker-events"
    with events.open("wb") as file:
        follower = subprocess.Popen([str(shutil.which("docker")), "-H", engine.host, "events"], stdout=file)
    with host.collecting() as collector:
        processes = {"collector": collector.pid, "docker events > file": follower.pid}
        time.sleep(5)
        before = {name: Weight.of(pid) for name, pid in processes.items()}
        time.sleep(IDLE_S)
        idle = {name: Weight.of(pid) for name, pid in processes.items()}
        size = host.log_path.stat().st_size
        began = time.monotonic()
        tag_and_untag(engine, EVENTS, _WRITERS)
        host.wait_for(lambda: _stored(host) >= EVENTS, "the end of the burst", patience=120)
        seconds = time.monotonic() - began
        after = {name: Weight.of(pid) for name, pid in processes.items()}
    follower.terminate()
    follower.wait()
    console.print_table(
        ("PROCESS", "IDLE CPU", "MEMORY, IDLE", "ITS OWN", "CPU OF THE BURST", "MEMORY AFTER", "ITS OWN AFTER"),
        [
            (
                name,
                f"{(idle[name].cpu - before[name].cpu) / IDLE_S:.2%}",
                format_bytes(idle[name].resident),
                format_bytes(idle[name].own),
                f"{after[name].cpu - idle[name].cpu:.2f} s",
                format_bytes(after[name].resident),
                format_bytes(after[name].own),
            )
            for name in processes
        ],
    )
    lines = events.read_bytes().count(b"\n")
    console.print_table(
        ("WHAT", "FIGURE"),
        [
            ("events of the burst", f"{EVENTS:,} in {seconds:.0f} s"),
            ("of them in the log", f"{_stored(host):,}"),
            ("gaps", str(host.count("gap"))),
            ("log, bytes per event", f"{(host.log_path.stat().st_size - size) / EVENTS:.0f}"),
            ("docker events, bytes per event", f"{events.stat().st_size / max(lines, 1):.0f}"),
            *_starts(host),
            ("one look of `collector run --page` at this log, processor time", f"{_look(host):.2f} s"),
        ],
    )


def _stored(host: Host) -> int:
    sql = (
        "SELECT count(*) FROM event WHERE kind = 'image_untagged' "
        "OR (kind = 'image_tagged' AND reference LIKE 'bench/%')"
    )
    return int(host.log.query(sql)[0][0])


def _starts(host: Host) -> list[tuple[str, str]]:
    """Median processor time of commands that run often, compiled once as any installation has them."""
    rows = []
    for argv in (("collector", "--help"), ("pruner", "--help"), ("pruner", "run", "--threshold", "1B")):
        program = str(Path(sys.executable).with_name(argv[0]))
        command = host.command(*argv) if argv[1] == "run" else [program, *argv[1:]]
        times = [of_command(*command, environment=host.environment).processor for _ in range(REPEATS + 1)]
        rows.append((f"`{' '.join(argv)}`, processor time", f"{statistics.median(times[1:]):.2f} s"))
    return rows


def _look(host: Host) -> float:
    """Median processor time of making the host's page again."""
    times = []
    for _ in range(REPEATS + 1):
        before = time.process_time()
        overview(host.log)
        times.append(time.process_time() - before)
    return statistics.median(times[1:])

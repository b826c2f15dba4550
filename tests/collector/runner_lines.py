from __future__ import annotations

from collections.abc import Iterable, Iterator

from collector.job_sources.runnerlog import JobFact, Line, RunnerLog, parse_line


def read_lines(lines: Iterable[str]) -> Iterator[tuple[Line, JobFact | None]]:
    """All entries of a log, each with what it says about a job."""
    log = RunnerLog()
    for raw in lines:
        line = parse_line(raw)
        if line is not None:
            yield line, log.read(line)

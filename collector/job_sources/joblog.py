"""What a job's own log (its trace) says about images: every wording since GitLab Runner 9.0. Pure.

The runner also writes these lines to its own log, at level debug.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from collector.model.times import parse_rfc3339_ns
from collector.model.untrusted import mapping

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_TIMESTAMP = re.compile(r"^(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) [0-9a-f]{2}[OE][ +]")
_ID = r"sha256:[0-9a-f]{64}"
_USING = re.compile(
    rf"^Using docker image (?P<id>{_ID}) for (?P<ref>\S+)(?: with digest (?P<digest>\S+@{_ID}))? \.\.\.$"
)
_USING_OLD = re.compile(
    rf"^Using docker image (?P<ref>\S+) ID=(?P<id>{_ID})"
    r" for (?:service (?P<service>\S+?)|(?P<what>.+? container))\.\.\.$"
)
_PULLING = re.compile(r"^Pulling docker image (?P<ref>\S+)(?: for platform \S+)? \.\.\.$")
_EXECUTOR = re.compile(r"^Using [\w+-]+(?: \w+)* executor with image (?P<ref>\S+) \.\.\.$")
_SERVICE = re.compile(r"^Starting service (?P<ref>\S+?)(?: \.\.\.|\.\.\.)$")
# A marker stands before what its line says, with a carriage return that hides it on a screen.
_MARKERS = re.compile(r"^(?:section_(?:start|end):\d+:[^\r]*\r)+")
# Where preparation ends. All that follows is said by the job's own script and hooks, or by what they start, and
# can be made to look like a line of the runner; every version has named all images by then.
_JOB_SPEAKS = re.compile(
    r"^(?:Running on .+ via |Getting source from |Cloning repository|Fetching changes|Skipping Git |"
    r"Executing \"[^\"]*\" stage of the job script|\$ )"
)
_SECTION = re.compile(r"section_start:\d+:(?!prepare_executor\b|prepare_script\b|resolve_secrets\b)\w")


@dataclass(frozen=True, slots=True)
class Sighting:
    """An image that a job names.

    Attributes:
        role: ``build``, ``service`` or ``predefined`` (the runner's helper); None where the log does not say.
        reference: what the job calls it.
        image: its ID; None while it is only intended.
        digest: ``repository@sha256:…``, where the log has it.
        pulled: whether the runner pulled it for this job.
        time_ns: the line's own time, UTC nanoseconds, where it has one.
        pull_seconds: how long the pull took, where the lines have times.
    """

    role: str | None
    reference: str | None
    image: str | None = None
    digest: str | None = None
    pulled: bool = False
    time_ns: int | None = None
    pull_seconds: float | None = None


class JobLog:
    """Reads the log of one job, line by line.

    Args:
        state: what `state` of an earlier reader gave, to go on where that ended.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        saved = state or {}
        self._build: str | None = saved.get("build")
        self._service_next = bool(saved.get("service_next"))
        # When the pull of each reference began, None where the line has no time.
        self._pulling: dict[str, int | None] = dict(mapping(saved.get("pulling")))

    @property
    def state(self) -> dict[str, Any]:
        """What the lines so far mean for those to come, as JSON."""
        return {"build": self._build, "service_next": self._service_next, "pulling": self._pulling}

    def read(self, line: str) -> Sighting | None:
        """What a line says about an image; None if nothing."""
        stamp = _TIMESTAMP.match(line)
        time_ns = parse_rfc3339_ns(stamp["time"]) if stamp else None
        text = plain(line[stamp.end() :] if stamp else line)
        if match := _EXECUTOR.match(text):
            self._build = match["ref"]
            return Sighting("build", match["ref"], time_ns=time_ns)
        if _SERVICE.match(text):
            self._service_next = True
        elif match := _PULLING.match(text):
            self._pulling.setdefault(match["ref"], time_ns)
        elif match := _USING_OLD.match(text):
            role = "service" if match["service"] else str(match["what"]).removesuffix(" container")
            return self._using(match["ref"], match["id"], None, role, time_ns)
        elif match := _USING.match(text):
            return self._using(match["ref"], match["id"], match["digest"], self._role(match["ref"]), time_ns)
        return None

    def _role(self, reference: str) -> str | None:
        """The line itself does not say it, the ones before do."""
        if self._service_next:
            self._service_next = False
            return "service"
        if self._build is None:
            return None
        return "build" if reference == self._build else "predefined"

    def _using(self, reference: str, image: str, digest: str | None, role: str | None, time_ns: int | None) -> Sighting:
        pulled = reference in self._pulling
        began = self._pulling.pop(reference, None)
        seconds = None if began is None or time_ns is None else (time_ns - began) / 1e9
        return Sighting(role, reference, image, digest, pulled, time_ns, seconds)


def plain(line: str) -> str:
    """The line without colours, the cursor's movements and the spaces around."""
    return _MARKERS.sub("", ANSI.sub("", line)).strip()


def sightings(trace: Iterable[str]) -> list[Sighting]:
    """What the lines of a whole trace say about images: each image once per role, in order of first mention.

    A trace is what the runner says and then what the job says, in one stream: only the runner is believed. What is only
    intended is left out where it is known which image it was.
    """
    log = JobLog()
    job_speaks = False
    found: dict[tuple[str | None, str | None, str | None], Sighting] = {}
    for line in trace:
        text = line.removesuffix("\r")
        stamp = _TIMESTAMP.match(text)
        said = plain(text[stamp.end() :] if stamp else text)
        job_speaks |= bool(_SECTION.search(text) or _JOB_SPEAKS.match(said))
        if job_speaks or (seen := log.read(text)) is None:
            continue
        key = (seen.role, seen.reference, seen.image)
        # A later line may say that the image had to be pulled (again).
        if key not in found or (seen.pulled and not found[key].pulled):
            found[key] = seen
    resolved = {(role, reference) for role, reference, image in found if image is not None}
    return [seen for seen in found.values() if seen.image is not None or (seen.role, seen.reference) not in resolved]

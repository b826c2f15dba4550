"""Reads the settings of other clean-up tools, and says in our terms what they mean.

Every setting either becomes a key of the policy, or is reported with the reason why it has no counterpart.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collector.model.errors import UsageError
from collector.model.paths import read_bounded
from collector.model.units import format_bytes, parse_bytes
from pruner.policy.file import policy_from, to_toml
from pruner.policy.policy import Policy, compile_entry

# What these tools exclude they never remove: neither in an emergency nor after a time.
_NEVER_REMOVED = {"emergency": "never", "allowlist_idle": "36500d"}
# An image's name with its tag, which is what the tools' patterns see; ours also see the repository alone.
_TAGGED = "(?=.*:[^/]*$)"
_TRUE = frozenset({"1", "true", "yes"})


@dataclass
class Import:
    """What was made of another tool's settings.

    Attributes:
        tool: which tool's.
        values: keys of the policy.
        notes: what could not be carried over, or means something else here, a line each.
    """

    tool: str
    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def policy(self) -> Policy:
        """The policy. Raises UsageError if the values contradict each other."""
        return policy_from(self.values, f"settings of {self.tool}")

    def to_toml(self) -> str:
        """The policy as a file, with the notes above it."""
        head = [f"# Made from the settings of {self.tool} by `pruner import-config`.", "#"]
        head += [f"# - {note}" for note in self.notes]
        return "\n".join(head) + "\n\n" + to_toml(self.policy())


def import_docker_gc(sources: Sequence[Path]) -> Import:
    """The settings of docker-gc in files.

    Args:
        sources: files with its environment (``/etc/default/docker-gc``, a cron line, a script) and its
            exclude files, recognised by their content. Exclude files that the environment names are
            read, too.

    Raises:
        UsageError: a file cannot be read, or none was given.
    """
    if not sources:
        raise UsageError("import-config docker-gc: name its exclude files and the file that sets its environment")
    made = Import("docker-gc")
    environment: dict[str, str] = {}
    excludes: list[Path] = []
    for path in sources:
        found = _docker_gc_settings(_text(path))
        environment.update(found)
        if not found:
            excludes.append(path)
    for setting, default in _EXCLUDE_FILES.items():
        named = Path(environment.get(setting, default))
        if named.name not in {path.name for path in excludes} and setting in environment:
            if named.exists():
                excludes.append(named)
            else:
                made.notes.append(f"{setting}: {named} is not there and was not read")
    _docker_gc_values(made, environment)
    for path in excludes:
        _docker_gc_excludes(made, path, _exclude_kind(path, environment))
    made.values = {**_NEVER_REMOVED, **made.values} if made.values.get("allowlist") else made.values
    return made


_EXCLUDE_FILES = {
    "EXCLUDE_FROM_GC": "/etc/docker-gc-exclude",
    "EXCLUDE_CONTAINERS_FROM_GC": "/etc/docker-gc-exclude-containers",
    "EXCLUDE_VOLUMES_IDS_FILE": "/etc/docker-gc-exclude-volumes",
}
_DOCKER_GC_SETTINGS = (
    *_EXCLUDE_FILES,
    "GRACE_PERIOD_SECONDS",
    "MINIMUM_IMAGES_TO_SAVE",
    "FORCE_IMAGE_REMOVAL",
    "FORCE_CONTAINER_REMOVAL",
    "REMOVE_VOLUMES",
    "EXCLUDE_DEAD",
    "DRY_RUN",
)
_ASSIGNMENT = re.compile(
    r"(?<![\w$])(?P<name>" + "|".join(_DOCKER_GC_SETTINGS) + r")=(?P<value>\"[^\"]*\"|'[^']*'|[^\s;&\"']*)"
)


def _docker_gc_settings(text: str) -> dict[str, str]:
    """Assignments in an environment file, a cron line, a script or a `docker run -e` command."""
    found = {}
    for line in text.splitlines():
        if not line.lstrip().startswith("#"):
            for match in _ASSIGNMENT.finditer(line):
                found[match["name"]] = match["value"].strip("\"'")
    return found


def _exclude_kind(path: Path, environment: Mapping[str, str]) -> str:
    for setting in _EXCLUDE_FILES:
        if environment.get(setting) == str(path):
            return setting
    for word, setting in (("container", "EXCLUDE_CONTAINERS_FROM_GC"), ("volume", "EXCLUDE_VOLUMES_IDS_FILE")):
        if word in path.name:
            return setting
    return "EXCLUDE_FROM_GC"


def _docker_gc_values(made: Import, environment: Mapping[str, str]) -> None:
    grace = environment.get("GRACE_PERIOD_SECONDS", "3600")
    if not grace.isdigit():
        raise UsageError(f"GRACE_PERIOD_SECONDS={grace}: not a number of seconds")
    made.values.update(
        {
            "min_age": f"{grace}s",
            "local_images": "evict",
            "containers.job_grace": f"{grace}s",
            "containers.grace": f"{grace}s",
            "dangling.age": f"{grace}s",
            "build_cache.enabled": False,
        }
    )
    made.notes += [
        "docker-gc removes what is unused, however much is free; here nothing goes while `threshold` is free",
        f"GRACE_PERIOD_SECONDS={grace} is counted there from an image's build, here (min_age) from its last use",
    ]
    if environment.get("REMOVE_VOLUMES", "0").lower() in _TRUE:
        made.values.update({"volumes.named": ["*"], "volumes.named_age": f"{grace}s"})
        made.values.update({"volumes.anonymous_age": f"{grace}s", "volumes.cache_age": f"{grace}s"})
    else:
        made.values["volumes.enabled"] = False
    for setting, reason in _DOCKER_GC_WITHOUT.items():
        value = environment.get(setting, "0")
        if value not in {"", "0"}:
            made.notes.append(f"{setting}={value}: not carried over; {reason}")


_DOCKER_GC_WITHOUT = {
    "MINIMUM_IMAGES_TO_SAVE": "images stay by use while there is space, not by count in a repository",
    "FORCE_IMAGE_REMOVAL": "nothing is ever removed by force; each tag is removed by itself",
    "FORCE_CONTAINER_REMOVAL": "only stopped containers go, and never by force",
    "EXCLUDE_DEAD": "a dead container may go like other stopped ones",
    "DRY_RUN": "`pruner run --dry-run` and `pruner plan` say what would go",
}


def _docker_gc_excludes(made: Import, path: Path, setting: str) -> None:
    lines = [line.strip() for line in _text(path).splitlines() if line.strip()]
    key, entry = {
        "EXCLUDE_FROM_GC": ("allowlist", _image_exclude),
        "EXCLUDE_CONTAINERS_FROM_GC": ("containers.keep", _name_exclude),
        "EXCLUDE_VOLUMES_IDS_FILE": ("volumes.keep", _name_exclude),
    }[setting]
    entries = []
    for line in lines:
        try:
            entries.append(entry(line))
        except ValueError as error:
            made.notes.append(f"{path.name}: '{line}' is not carried over: {error}")
    if entries:
        made.values[key] = [*made.values.get(key, []), *dict.fromkeys(entries)]


def _image_exclude(line: str) -> str:
    """An entry that matches what `grep` finds with ` line ` in ` repository:tag short-id `."""
    if re.fullmatch(r"[0-9a-f]{12}", line):
        raise ValueError("it is an image ID, and entries of the allowlist are names")
    if re.fullmatch(r"[\w./@-]+:[\w.-]*", line) and "." not in line:
        return line
    return _checked(f"re:{_TAGGED}(?:{bre_to_python(line)})")


def _name_exclude(line: str) -> str:
    """An entry that matches what `grep` finds with the line anywhere in a name."""
    return _checked(f"re:.*(?:{bre_to_python(line)}).*")


def _checked(entry: str) -> str:
    compile_entry(entry)
    return entry


_BRE = re.compile(
    r"\\\{(?P<interval>[\d,]+)\\\}|\\(?P<escaped>.)|(?P<bracket>\[\^?\]?(?:\[:\w+:\]|[^\]])*\])|(?P<plain>.)"
)
_BRE_ESCAPES = {"(": "(", ")": ")", "|": "|", "+": "+", "?": "?", "<": r"\b", ">": r"\b", "w": r"\w", "W": r"\W"}
_BRE_ESCAPES |= {"s": r"\s", "S": r"\S", "b": r"\b", "B": r"\B"} | {digit: f"\\{digit}" for digit in "123456789"}
_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "digit": "0-9",
    "lower": "a-z",
    "upper": "A-Z",
    "xdigit": "0-9a-fA-F",
    "space": r"\s",
    "blank": r" \t",
    "punct": r"!-/:-@\[-`{-~",
}


def bre_to_python(pattern: str) -> str:
    """A basic regular expression (as `grep` reads it, with GNU's extensions) in Python's syntax.

    Raises:
        ValueError: it has no counterpart.
    """
    made: list[str] = []
    for match in _BRE.finditer(pattern):
        first = not made or made[-1] in {"(", "|", "^"}
        if match["interval"]:
            made.append(f"{{{match['interval']}}}")
        elif match["escaped"]:
            made.append(_BRE_ESCAPES.get(match["escaped"], re.escape(match["escaped"])))
        elif match["bracket"]:
            made.append(_bracket(match["bracket"]))
        elif match["plain"] == "^" and first:
            made.append("^")
        elif match["plain"] == "$" and match.end() == len(pattern):
            made.append("$")
        elif match["plain"] == ".":
            made.append(".")
        elif match["plain"] == "*" and not first:
            made.append("*")
        else:
            made.append(re.escape(match["plain"]))
    try:
        re.compile("".join(made))
    except re.error as error:
        raise ValueError(f"it is not a regular expression ({error})") from None
    return "".join(made)


def _bracket(text: str) -> str:
    negated, inside = text.startswith("[^"), text[2 if text.startswith("[^") else 1 : -1]
    parts = re.split(r"\[:(\w+):\]", inside)
    made = "".join(
        _CLASSES.get(part, "") if number % 2 else part.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
        for number, part in enumerate(parts)
    )
    if not made:
        raise ValueError(f"{text} is empty or names an unknown class")
    return f"[{'^' if negated else ''}{made}]"


def import_docuum(sources: Sequence[str], disk_bytes: int | None = None) -> Import:
    """The settings of docuum.

    Args:
        sources: files with its command line (a systemd unit, a compose file's command, a script), or the
            arguments themselves.
        disk_bytes: size of the engine's disk, for a threshold in bytes; None: unknown.

    Raises:
        UsageError: a file cannot be read, or an argument is not one of docuum's.
    """
    made = Import("docuum")
    made.values.update(
        {
            "order": "lru",
            "local_images": "evict",
            "containers.enabled": False,
            "dangling.enabled": False,
            "volumes.enabled": False,
            "build_cache.enabled": False,
        }
    )
    options = _docuum_options(_docuum_arguments(sources))
    _docuum_threshold(made, options.get("threshold", ["10 GB"])[-1], disk_bytes)
    keep = []
    for pattern in options.get("keep", []):
        try:
            keep.append(_rust_entry(pattern))
        except ValueError as error:
            made.notes.append(f"--keep '{pattern}' is not carried over: {error}")
    if keep:
        made.values.update({"allowlist": keep, **_NEVER_REMOVED})
    if "min-age" in options:
        made.values["min_age"] = f"{_long_duration(options['min-age'][-1]):g}s"
    else:
        made.notes.append("docuum has no minimum age unless set; here images used within min_age (1h) are kept")
    if "deletion-chunk-size" in options:
        made.notes.append("--deletion-chunk-size: not carried over; free space is measured after each removal")
    made.notes.append("docuum removes by force and forgets pulls that it did not see; here neither happens")
    return made


def _docuum_arguments(sources: Sequence[str]) -> list[str]:
    """The arguments of docuum: as given, or behind its name in a command line or a file."""
    if not sources:
        raise UsageError("import-config docuum: name its unit file, or its arguments after --")
    if sources[0].startswith("-"):
        return list(sources)
    looks_like_file = "/" in sources[0] or "." in sources[0]
    text = "\n".join(_text(Path(source)) for source in sources) if looks_like_file else shlex.join(sources)
    lines = text.replace("\\\n", " ").splitlines()
    found = [arguments for line in lines if (arguments := _behind_docuum(line)) is not None]
    if not found:
        raise UsageError("no command line of docuum was found there: give its arguments after --")
    return max(found, key=len)


def _behind_docuum(line: str) -> list[str] | None:
    """The arguments on one line of a unit, a script or a compose file; None: it does not start docuum."""
    bare = line.strip()
    try:
        words = shlex.split(re.sub(r"^(ExecStart=[-@:+!]*|command:|-\s)", "", bare), comments=True)
    except ValueError:
        return None
    if bare.startswith("command:") and words and words[0].startswith("-"):
        return words
    # The last one: the name of its container may be the same.
    starts = [number for number, word in enumerate(words) if re.search(r"(^|/)docuum(:[\w.-]+)?$", word)]
    rest = words[starts[-1] + 1 :] if starts else None
    return rest if rest is None or not rest or rest[0].startswith("-") else None


_DOCUUM_OPTIONS = {"-t": "threshold", "-k": "keep", "-d": "deletion-chunk-size", "-m": "min-age"}


def _docuum_options(arguments: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            name, equals, value = name[:2], word[2:], word[2:].removeprefix("=")
        long = _DOCUUM_OPTIONS.get(name, name.removeprefix("--"))
        if long not in _DOCUUM_OPTIONS.values():
            raise UsageError(f"'{word}' is not an option of docuum")
        if not equals:
            value = next(words, "")
        if not value:
            raise UsageError(f"--{long} has no value")
        found.setdefault(long, []).append(value)
    return found


def _docuum_threshold(made: Import, text: str, disk_bytes: int | None) -> None:
    share = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)
    if share:
        free = 100 - float(share[1])
        if not 0 <= free <= 100:  # noqa: PLR2004 - per cent
            raise UsageError(f"--threshold '{text}' is not between 0% and 100%")
        made.values["threshold"] = f"{free:g}%"
        made.notes.append(
            f"--threshold '{text}' limits what images take of the disk; here {free:g}% is to be free of all"
        )
        return
    try:
        limit = parse_bytes(text, bare=True)
    except ValueError as error:
        raise UsageError(f"--threshold: {error}") from None
    if disk_bytes is None:
        made.notes.append(
            f"--threshold '{text}' limits what images take, whatever else fills the disk; `threshold` is free space "
            "and stays at its default: give --disk SIZE, or try some with `analyzer simulate`"
        )
        return
    if limit >= disk_bytes:
        raise UsageError(f"--threshold '{text}' is not less than the disk's {format_bytes(disk_bytes)}")
    made.values["threshold"] = f"{disk_bytes - limit}B"
    made.notes.append(
        f"--threshold '{text}' limits what images take; on a disk of {format_bytes(disk_bytes)} that leaves "
        f"{format_bytes(disk_bytes - limit)} free"
    )


def _rust_entry(pattern: str) -> str:
    """An entry that matches what docuum's unanchored regular expression finds in a `repository:tag`."""
    flags = re.match(r"\(\?([a-z]+)\)", pattern)
    body = f"(?{flags[1]}:{pattern[flags.end() :]})" if flags else f"(?:{pattern})"
    body = body.replace(r"\z", r"\Z")
    return _checked(f"re:{_TAGGED}.*{body}.*")


_LONG_UNITS = {"second": 1, "sec": 1, "minute": 60, "min": 60, "hour": 3600, "hr": 3600, "day": 86400, "week": 604800}
_LONG_UNITS |= {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "month": 2_630_016, "year": 31_557_600}


def _long_duration(text: str) -> float:
    """Seconds of ``3 days`` or ``1h 30m``."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.lower())
    units = [_LONG_UNITS.get(unit) or _LONG_UNITS.get(unit.removesuffix("s")) for _, unit in parts]
    if not parts or None in units or re.sub(r"(\d+(?:\.\d+)?)\s*([a-z]+)|\s|,|and", "", text.lower()):
        raise UsageError(f"--min-age: '{text}' is not a duration (such as 24h or 3 days)")
    return sum(float(number) * (unit or 0) for (number, _), unit in zip(parts, units, strict=True))


def disk_size(text: str | None) -> int | None:
    """Bytes of a disk, as a user writes them. Raises UsageError."""
    try:
        return None if text is None else parse_bytes(text)
    except ValueError as error:
        raise UsageError(f"--disk: {error}") from None


def write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet. Raises UsageError."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path} is there already: name another, or move it away") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def _text(path: Path) -> str:
    try:
        return read_bounded(path)
    except FileNotFoundError:
        raise UsageError(f"no such file: {path}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text") from None

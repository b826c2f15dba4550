"""Reads the settings of docker-gc: its environment and its exclude files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from collector.model.errors import UsageError
from pruner.policy.other_tools import (
    LOCAL_IMAGES_GO,
    LOCAL_IMAGES_NOTE,
    NEVER_REMOVED,
    TAGGED,
    Import,
    checked,
    text_of,
)

_TRUE = frozenset({"1", "true", "yes"})


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
        found = _docker_gc_settings(text_of(path))
        environment.update(found)
        if not found:
            excludes.append(path)
    for setting in filter(environment.__contains__, _EXCLUDE_FILES):
        named = Path(environment[setting])
        if named.name not in {path.name for path in excludes}:
            if named.exists():
                excludes.append(named)
            else:
                made.notes.append(f"{setting}: {named} is not there and was not read")
    _docker_gc_values(made, environment)
    for path in excludes:
        _docker_gc_excludes(made, path, _exclude_kind(path, environment))
    made.values = {**NEVER_REMOVED, **made.values} if made.values.get("allowlist") else made.values
    return made


def _docker_gc_settings(text: str) -> dict[str, str]:
    """Assignments in an environment file, a cron line, a script or a `docker run -e` command."""
    found = {}
    for line in text.splitlines():
        if not line.lstrip().startswith("#"):
            for match in _ASSIGNMENT.finditer(line):
                found[match["name"]] = match["value"].strip("\"'")
    return found


def _exclude_kind(path: Path, environment: Mapping[str, str]) -> str:
    named = [setting for setting in _EXCLUDE_FILES if environment.get(setting) == str(path)]
    usual = [setting for setting, (word, _, _) in _EXCLUDE_FILES.items() if word and word in path.name]
    return (*named, *usual, "EXCLUDE_FROM_GC")[0]


def _docker_gc_values(made: Import, environment: Mapping[str, str]) -> None:
    grace = environment.get("GRACE_PERIOD_SECONDS", "3600")
    if not grace.isdigit():
        raise UsageError(f"GRACE_PERIOD_SECONDS={grace}: not a number of seconds")
    made.values.update(
        {
            "min_age": f"{grace}s",
            **LOCAL_IMAGES_GO,
            "containers.job_grace": f"{grace}s",
            "containers.grace": f"{grace}s",
            "dangling.age": f"{grace}s",
            "build_cache.enabled": False,
        }
    )
    made.notes += [
        "docker-gc removes what is unused, however much is free; here nothing goes while `threshold` is free",
        f"GRACE_PERIOD_SECONDS={grace} is counted there from an image's build, here (min_age) from its last use",
        LOCAL_IMAGES_NOTE,
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
    lines = [line.strip() for line in text_of(path).splitlines() if line.strip()]
    _, key, entry = _EXCLUDE_FILES[setting]
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
    if re.fullmatch(r"[0-9a-f]{12}|(?:sha256:)?[0-9a-f]{64}", line):
        raise ValueError("it is an image ID, and entries of the allowlist are names")
    if re.fullmatch(r"[\w./@-]+:[\w.-]*", line) and "." not in line:
        return line
    return checked(f"re:{TAGGED}(?:{bre_to_python(line)})")


def _name_exclude(line: str) -> str:
    """An entry that matches what `grep` finds with the line anywhere in a name."""
    return checked(f"re:.*(?:{bre_to_python(line)}).*")


# Of each setting that names such a file: a word in the usual file's name, the key of ours, and how a line is read.
_EXCLUDE_FILES: dict[str, tuple[str, str, Callable[[str], str]]] = {
    "EXCLUDE_FROM_GC": ("", "allowlist", _image_exclude),
    "EXCLUDE_CONTAINERS_FROM_GC": ("container", "containers.keep", _name_exclude),
    "EXCLUDE_VOLUMES_IDS_FILE": ("volume", "volumes.keep", _name_exclude),
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

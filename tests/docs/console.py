"""Takes the commands out of the documents and runs them as a reader would, on a host of their own.

In a document a block that begins with ```console shows a session: lines that begin with `$ ` are run,
in order and in one shell, the others show what may come back. Behind a command, `# ends with status 3`
says that it does. What needs a service manager or changes a whole machine stands in blocks that begin
with ```console host: a test of its own runs those.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^ *```console(?P<where> host)?\n(?P<lines>.*?)^ *```$", re.MULTILINE | re.DOTALL)
_STATUS = re.compile(r"\s+# ends with status (?P<status>\d+)$")
_PROMPT = "$ "


@dataclass(frozen=True)
class Command:
    """One command of a document.

    Attributes:
        text: what is typed, without the prompt.
        status: the exit status that the document promises.
        line: where it stands.
    """

    text: str
    status: int
    line: int


def commands(document: Path, *, host: bool = False) -> list[Command]:
    """The commands of a document: those for any shell, or those for a whole host."""
    text = document.read_text(encoding="utf-8")
    found: list[Command] = []
    for block in _BLOCK.finditer(text):
        if bool(block["where"]) == host:
            found.extend(_session(block["lines"], text.count("\n", 0, block.start("lines")) + 1))
    return found


def _session(lines: str, first: int) -> list[Command]:
    made: list[Command] = []
    typed: list[str] = []
    begun = 0
    for number, line in enumerate(textwrap.dedent(lines).splitlines(), start=first):
        if line.startswith(_PROMPT):
            typed, begun = [line.removeprefix(_PROMPT)], number
        elif typed:
            typed.append(line)
        if typed and not line.endswith("\\"):
            made.append(_command("\n".join(typed), begun))
            typed = []
    return made


def _command(text: str, line: int) -> Command:
    promised = _STATUS.search(text)
    return Command(_STATUS.sub("", text), int(promised["status"]) if promised else 0, line)


_WITHOUT_SUDO = 'sudo() { while [ $# -gt 0 ] && [ "${1#-}" != "$1" ]; do shift; done; "$@"; }'


def script(found: list[Command], *, as_root: bool = True) -> str:
    """A shell script that runs the commands and stops, naming the line, where one does not keep its promise.

    Args:
        found: the commands.
        as_root: root runs it, where there is no `sudo`; else whoever may use that.
    """
    parts = ["set -u", *([_WITHOUT_SUDO] if as_root else [])]
    for command in found:
        shown = shlex.quote(f"line {command.line}: {command.text}")
        parts += [
            f"echo {shown} >&2",
            command.text,
            f'found=$?; [ $found = {command.status} ] || {{ echo "ended with status $found" >&2; exit 1; }}',
        ]
    return "\n".join(parts) + "\n"

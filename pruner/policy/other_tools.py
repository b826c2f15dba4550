"""Reads the settings of other clean-up tools, and says in our terms what they mean.

Every setting either becomes a key of the policy, or is reported with the reason why it has no counterpart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collector.model.errors import UsageError
from collector.model.paths import read_bounded
from pruner.policy.file import policy_from, to_toml
from pruner.policy.local_images import EVICT, SUPERSEDED
from pruner.policy.policy import Policy, compile_entry

# What these tools exclude they never remove: neither in an emergency nor after a time.
NEVER_REMOVED = {"emergency": "never", "allowlist_idle": "36500d"}
# Nor do they ask whether a registry has an image.
LOCAL_IMAGES_GO = {"local_images": EVICT}
LOCAL_IMAGES_NOTE = (
    f'images that exist only on this host may go as there (local_images = "{EVICT}"); "{SUPERSEDED}", the default '
    "here, keeps the latest of each repository"
)
# An image's name with its tag, which is what the tools' patterns see; ours also see the repository alone.
TAGGED = "(?=.*:[^/]*$)"


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


def checked(entry: str) -> str:
    """An entry of the allowlist. Raises ValueError if it is not one."""
    compile_entry(entry)
    return entry


def write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet. Raises UsageError."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path} already exists: name another, or move it away") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def text_of(path: Path) -> str:
    """What a file holds. Raises UsageError."""
    try:
        return read_bounded(path)
    except FileNotFoundError:
        raise UsageError(f"no such file: {path}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text") from None

"""What people call images."""

from __future__ import annotations


def familiar(name: str) -> str:
    """A reference as Docker shows it: without the default registry, with the default tag."""
    for prefix in ("docker.io/", "index.docker.io/"):
        name = name.removeprefix(prefix)
    name = name.removeprefix("library/")
    if "@" in name or ":" in name.rpartition("/")[2]:
        return name
    return f"{name}:latest"

"""Builds as people start them, by the classic builder or by BuildKit."""

from __future__ import annotations

import os
import subprocess
import tempfile
from enum import Enum
from pathlib import Path

from tests.engine.engines import Engine

# The distribution's command speaks to BuildKit inside the engine by itself, without a plugin.
_DOCKER = "/usr/bin/docker"


class Builder(Enum):
    """Who builds; the value is what `DOCKER_BUILDKIT` says."""

    CLASSIC = "0"
    BUILDKIT = "1"


def builders(engine: Engine) -> list[Builder]:
    """The builders of an engine: Podman has its own behind the classic builder's door, and no BuildKit."""
    return [Builder.CLASSIC] if engine.is_podman else [*Builder]


def build(engine: Engine, builder: Builder, base: str, tag: str, content: str) -> str:
    """Build an image on `base` with one file of its own; the built image's ID.

    Raises:
        subprocess.CalledProcessError: the engine refused.
    """
    with tempfile.TemporaryDirectory(dir=engine.folder) as folder:
        Path(folder, "file").write_text(content)
        Path(folder, "Dockerfile").write_text(f"FROM {base}\nCOPY file /file\nRUN true\n")
        subprocess.run(
            [_DOCKER, "--host", engine.host, "build", "--network", "none", "--tag", tag, folder],
            env={**os.environ, "DOCKER_BUILDKIT": builder.value, "DOCKER_CONFIG": str(engine.folder / "docker")},
            check=True,
            capture_output=True,
            text=True,
        )
    client = engine.client()
    try:
        return str(client.images.get(tag).id)
    finally:
        client.close()

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


def leave_container(engine: Engine, base: str) -> None:
    """A container of a build, with 4 MiB of its own, in which nothing works any more."""
    client = engine.client()
    with tempfile.TemporaryDirectory(dir=engine.folder) as folder:
        Path(folder, "file").write_bytes(os.urandom(4 * 2**20))
        Path(folder, "Dockerfile").write_text(f"FROM {base}\nCOPY file /file\n")
        image, _ = client.images.build(path=folder, rm=False)
    client.images.remove(str(image.id))
    client.close()


def kill_midway(engine: Engine, base: str) -> None:
    """A build that is killed while it runs something: its container is left as it is."""
    with tempfile.TemporaryDirectory(dir=engine.folder) as folder:
        Path(folder, "Dockerfile").write_text(f"FROM {base}\nRUN echo begun; sleep 600\n")
        argv, environment = engine.podman("build", "--isolation", "chroot", folder)
        with subprocess.Popen(argv, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert any(line.strip() == "begun" for line in process.stdout)
            process.kill()


def unmount_all(engine: Engine) -> None:
    """What a reboot does: nothing of builds is mounted any more."""
    left = _podman(engine, "ps", "--all", "--external", "--quiet", "--no-trunc").split()
    for container in left * 2:  # a build that runs something has it mounted twice
        _podman(engine, "unmount", container)


def _podman(engine: Engine, *argv: str) -> str:
    command, environment = engine.podman(*argv)
    return subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True, text=True).stdout

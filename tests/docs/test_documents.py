"""Every command that a document shows does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MakeEngine
from tests.docs.console import commands, script
from tests.engine.engines import Engine
from tests.engine.registry import Registry, base_layer, random_layer

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# What the reference shows is usage, made from the commands themselves.
SHOWN = [path for path in DOCUMENTS if path.name != "reference.md" and commands(path)]
MIB = 2**20
# Names that the documents use, to which the test's engine gives images.
NAMES = ("registry.example.org/base:1", "registry.example.org/mesa/build:2", "debian:12", "python:3.12")
_LINK = re.compile(r"\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]+)?\)")


def anchors(document: Path) -> set[str]:
    """What links to a document's headings end in, as GitHub and GitLab make them."""
    text = re.sub(r"^ *```.*?^ *```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    heads = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head) for head in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


SPACES = ("--mount", "--net", "--pid")
# A page about another engine than Docker is tried on that.
ENGINES = {"podman.md": "podman"}

# The system's folders are written to in the session's own mount namespace only, and its ports are its own, too.
PRIVATE = """
set -eu
ip link set lo up
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/podman
ln -s "$SOCKET" /run/podman/podman.sock
for folder in etc var/lib opt usr/local; do
  over="$SANDBOX/$folder"
  mkdir -p "$over/upper" "$over/work"
  mount -t overlay overlay -o "lowerdir=/$folder,upperdir=$over/upper,workdir=$over/work" "/$folder"
done
cd "$SANDBOX/home"
exec bash "$SANDBOX/session.sh"
"""


@pytest.fixture
def host(make_engine: MakeEngine, registry: Registry, document: Path) -> Engine:
    """An engine that holds the images of which the documents speak."""
    engine = make_engine(ENGINES.get(document.name, "docker20"))
    provide_images(engine, registry)
    return engine


def provide_images(engine: Engine, registry: Registry) -> None:
    """Have an engine hold the images of which the documents speak."""
    client = engine.client()
    for number, name in enumerate(NAMES):
        layers = [base_layer(), random_layer(700 + number, 8 * MIB)]
        pushed = registry.push_image(name.rpartition(":")[0].replace("registry.example.org/", ""), "1", layers)
        repository, _, tag = name.rpartition(":")
        client.images.pull(pushed.reference)
        client.images.get(pushed.reference).tag(repository, tag)
        client.images.remove(pushed.reference)
    client.close()


@pytest.mark.long
@pytest.mark.engine
@pytest.mark.parametrize("document", SHOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_do_what_they_say(document: Path, host: Engine) -> None:
    sandbox = host.disk.path / "sandbox"
    (sandbox / "home").mkdir(parents=True)
    (sandbox / "session.sh").write_text(script(commands(document)))
    done = subprocess.run(
        ["unshare", *SPACES, "--propagation", "private", "--fork", "--kill-child", "bash", "-c", PRIVATE],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("DOCKER")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(sandbox / "home"),
            "SANDBOX": str(sandbox),
            "DOCKER_HOST": host.host,
            "SOCKET": str(host.socket),
            "PROJECT": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"{document.name}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for link in _LINK.finditer(document.read_text(encoding="utf-8")):
        target = link["target"]
        if "://" in target or target.startswith("mailto:"):
            continue
        assert (document.parent / target).exists(), target
        if link["anchor"] and target.endswith(".md"):
            assert link["anchor"].removeprefix("#") in anchors(document.parent / target), link[0]


def test_the_reference_is_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, "tools/reference.py", "--check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

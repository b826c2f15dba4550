"""The Debian package for trixie, in a root file system of trixie: installed, started, its units verified, purged."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.needs import cannot_run
from tools.dist import PROJECT, debian_package

pytestmark = pytest.mark.engine
ROOT = Path("/var/cache/docker-hindsight-tests/trixie-root")
# What is written there is in memory, and all of it ends with the namespaces.
_INSTALL = """
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
mount -t proc proc "$1/root/proc"
mount --rbind /dev "$1/root/dev"
cp "$3" "$1/root/root/package.deb"
exec chroot "$1/root" env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -exc '
  dpkg --install /root/package.deb
  for command in collector pruner analyzer; do "$command" --version; done
  collector status 2>&1 | grep "no event log"
  find /usr/lib/systemd/system /etc/systemd/system -name "collector*" -o -name "pruner*" | xargs systemd-analyze verify
  id docker-hindsight
  dpkg --purge docker-hindsight
  ! id docker-hindsight 2>/dev/null
  ! find / -xdev -name "docker[-_]hindsight*" -not -path "/srv/*" | grep .
  echo whole'
"""


def test_it_installs_starts_and_leaves_nothing_on_trixie(tmp_path: Path) -> None:
    if os.geteuid() != 0 or not (ROOT / "usr/bin/systemd-analyze").exists():
        cannot_run(f"no {ROOT} with systemd: run .ci/install-packages as root")
    made = debian_package("trixie", tmp_path / "deb")
    (tmp_path / "state").mkdir()
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _INSTALL, "sh"]
    done = subprocess.run(
        [*argv, tmp_path / "state", ROOT, made], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.stdout.endswith("whole\n"), (done.stdout[-3000:], done.stderr[-3000:])
    assert done.stdout.count(f"docker-hindsight {PROJECT['version']}\n") == 3, done.stdout[-3000:]

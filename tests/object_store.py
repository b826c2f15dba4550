"""A real S3-compatible server on loopback: rclone, serving a folder, so that what it holds outlives it."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from tests.needs import cannot_run
from tests.waiting import wait_for

RCLONE = Path(sys.executable).with_name("rclone")
KEY, SECRET = "ACCESSKEY0001", "SECRETKEY0001"


class ObjectStore:
    """The server, and the folder of its buckets; it can be killed and started again at the same address.

    Args:
        folder: whose folders are the buckets.
    """

    def __init__(self, folder: Path) -> None:
        if not RCLONE.exists():
            cannot_run("rclone is not installed: run make sync")
        self.folder = folder
        (folder / "fleet").mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])
        self.start()

    @property
    def environment(self) -> dict[str, str]:
        """What lets a client use it."""
        address = f"http://127.0.0.1:{self._port}"
        return {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL": address}

    def start(self) -> None:
        """Start it, and wait until it listens."""
        argv = ["serve", "s3", str(self.folder), "--addr", f"127.0.0.1:{self._port}", "--auth-key", f"{KEY},{SECRET}"]
        self._process = subprocess.Popen(
            [RCLONE, *argv, "--config", "/dev/null", "--vfs-cache-mode", "off"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(self._listens, "the object store")

    def _listens(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", self._port)) == 0

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait()

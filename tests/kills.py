"""A real end at any moment: a process of ours is killed while it is at work."""

from __future__ import annotations

import subprocess
import sys
import time


def kill_after(seconds: float, script: str, *argv: str) -> None:
    """Run a script that prints a line when it begins its work, and kill it so long after that line."""
    child = subprocess.Popen([sys.executable, "-c", script, *argv], stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(seconds)
        child.kill()

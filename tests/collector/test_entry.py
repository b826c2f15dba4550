"""The programs' beginning."""

from __future__ import annotations

import signal
import subprocess
import sys

_SLOW = """
import time
from collector import entry
def load(name):
    print("loading", flush=True)
    time.sleep(60)
entry.import_module = load
entry.pruner()
"""


def test_ctrl_c_while_modules_are_loaded_ends_quietly() -> None:
    # The tests may run in the background of a shell themselves.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + _SLOW
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"loading\n"
        process.send_signal(signal.SIGINT)
        _, output = process.communicate(timeout=30)
    assert (process.returncode, output) == (-signal.SIGINT, b"")


def test_a_program_begun_in_the_background_of_a_shell_goes_on_ignoring_ctrl_c() -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); from collector import entry\n" + _SLOW.replace(
        "time.sleep(60)", "signal.raise_signal(signal.SIGINT); raise SystemExit(7)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (7, b"")

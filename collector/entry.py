"""Where the programs begin: with Ctrl-C ending them quietly while their modules are still being loaded."""

from __future__ import annotations

import gc
import os
import pwd
import signal
from importlib import import_module
from typing import NoReturn


def collector() -> NoReturn:
    """Begin `collector`."""
    _begin("collector.cli")


def analyzer() -> NoReturn:
    """Begin `analyzer`."""
    _begin("analyzer.cli")


def pruner() -> NoReturn:
    """Begin `pruner`."""
    _begin("pruner.cli")


def collect_seldom() -> None:
    """Look for circles of garbage less often than Python does: ten thousand images are many objects, and none is."""
    gc.set_threshold(50_000, 20, 20)


def name_home() -> None:
    """Give a user without a home folder, such as a number that no account has, Debian's name for none.

    Libraries, too, look for it when they are imported, and end the program where there is none.
    """
    if "HOME" in os.environ:
        return
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ["HOME"] = "/nonexistent"


def _begin(module: str) -> NoReturn:
    collect_seldom()
    name_home()
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:  # else a shell has it ignored in what runs behind
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    main = import_module(module).main
    signal.signal(signal.SIGINT, usual)
    main()
    raise SystemExit

"""The three programs, run in this process: without a new interpreter each time."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from importlib import import_module
from subprocess import CompletedProcess
from unittest.mock import patch


def run(program: str, *arguments: str, columns: int | None = None) -> CompletedProcess[str]:
    """What a program prints, and the status that it ends with."""
    out, err = io.StringIO(), io.StringIO()
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    if columns is not None:
        environment["COLUMNS"] = str(columns)
    status = 0
    with (
        patch.object(sys, "argv", [program, *arguments]),
        patch.dict(os.environ, environment, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            import_module(f"{program}.cli").main()
        except SystemExit as ended:
            status = int(ended.code or 0)
    return CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def printed(program: str, *arguments: str) -> str:
    """What a program prints that ends well."""
    done = run(program, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout

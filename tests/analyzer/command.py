"""The command, run in this process: without a new interpreter each time."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from subprocess import CompletedProcess
from unittest.mock import patch

from analyzer.cli import main


def analyzer(*arguments: str, columns: int | None = None) -> CompletedProcess[str]:
    """What the command prints, and the status that it ends with."""
    out, err = io.StringIO(), io.StringIO()
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    if columns is not None:
        environment["COLUMNS"] = str(columns)
    status = 0
    with (
        patch.object(sys, "argv", ["analyzer", *arguments]),
        patch.dict(os.environ, environment, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            status = int(ended.code or 0)
    return CompletedProcess(arguments, status, out.getvalue(), err.getvalue())

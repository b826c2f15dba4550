"""What costs are grouped by; apart, so that `--help` loads nothing else."""

from __future__ import annotations

from enum import StrEnum


class By(StrEnum):
    """What costs are grouped by."""

    PROJECT = "project"
    REF = "ref"
    IMAGE = "image"

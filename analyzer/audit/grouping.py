"""What costs are told by; apart, so that `--help` loads nothing else."""

from __future__ import annotations

from enum import StrEnum


class By(StrEnum):
    """What costs are told by."""

    PROJECT = "project"
    REF = "ref"
    IMAGE = "image"

"""Floor 3: replay of recorded history under other policies, comparison and reports.

The library for notebooks and scripts is here, too; it is loaded when first asked for::

    from analyzer import open_log, simulate

    simulate(open_log("events.duckdb"), {"threshold": "20%"})
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analyzer.api import (
        Advice,
        Fleet,
        History,
        disk,
        earn_allowlist,
        example_logs,
        free_space,
        gaps,
        images,
        open_log,
        policy,
        recommend,
        simulate,
        sweep,
        uses,
    )

__all__ = [
    "Advice",
    "Fleet",
    "History",
    "disk",
    "earn_allowlist",
    "example_logs",
    "free_space",
    "gaps",
    "images",
    "open_log",
    "policy",
    "recommend",
    "simulate",
    "sweep",
    "uses",
]


def __getattr__(name: str) -> Any:
    """The library's functions, imported with pandas only when they are used."""
    if name in __all__:
        try:
            from analyzer import api  # noqa: PLC0415 - `import analyzer` stays light
        except ModuleNotFoundError as error:
            if error.name not in {"numpy", "pandas"}:
                raise
            raise ImportError(f"{error.name} is not installed: install 'docker-hindsight[library]'") from None
        return getattr(api, name)
    raise AttributeError(f"module 'analyzer' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

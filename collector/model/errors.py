"""What can be wrong, said in one line: what, where and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path


class HindsightError(Exception):
    """A fault that is reported to the user in one line; `exit_status` is what the command ends with.

    Attributes:
        host: the host that it is about; None: no particular one.
        unnamed: what it says where that host is named already.
    """

    exit_status = 1
    host: str | None = None
    unnamed = ""

    @classmethod
    def about(cls, host: str, before: str, after: str, *, quoted: bool = False) -> Self:
        """A fault of one host, which is named between two parts of what is said; without the first one it begins so."""
        name = f"host '{host}'" if quoted else f"host {host}"
        made = cls(f"{before} of {name}{after}" if before else f"{name}{after}")
        made.host, made.unnamed = host, f"{before or 'it'}{after}"
        return made


class UsageError(HindsightError):
    """The user asked for something impossible: a wrong option, policy or file format."""

    exit_status = 2


class LogError(HindsightError):
    """The event log cannot be used as it is."""


class LogBusyError(LogError):
    """Another process holds the log; trying again later may work."""


class SpoolUnusableError(LogError):
    """What has the name of the spool cannot be opened: it is not known what waits there."""


class LogFullError(LogError):
    """The file system that holds the log has no room for what is to be appended."""


class LogDamagedError(LogError):
    """The log's file itself cannot be read any more, as a whole or in part.

    Attributes:
        fault: what is wrong with it, in DuckDB's words.
    """

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(
            f"event log {path} is damaged: `collector run` sets it aside and begins a new one with what can still "
            f"be read ({fault})"
        )
        self.fault = fault


class EngineError(HindsightError):
    """The container engine cannot be reached or refused."""


class DeadlineError(EngineError):
    """The time limit for questions to an engine has passed."""


class UnansweredError(EngineError):
    """The container engine is there and did not answer one question: it refused, failed, or took too long."""


class EngineRefusedError(UnansweredError):
    """The engine answered, and refused.

    Attributes:
        explanation: the engine's own words.
        status: its HTTP status; None if it gave none.
    """

    def __init__(self, host: str, explanation: str, status: int | None = None) -> None:
        super().__init__(f"the engine at {host} answered: {explanation}")
        self.explanation = explanation
        self.status = status


class EngineNotFoundError(EngineRefusedError):
    """The engine has nothing of that name (any more)."""

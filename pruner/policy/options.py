"""The policy on the command line: one option for each key of the file, of the same name."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from collector.terminal.declare import option, parameter, with_parameters
from pruner.policy.file import COMMAND_LINE, DEFAULT_POLICY_PATH, load_policy, policy_from
from pruner.policy.keys import KEYS
from pruner.policy.policy import Policy

_FILE = Annotated[
    Path | None,
    option(f"Policy file; options override it. Default: {DEFAULT_POLICY_PATH}, if there is one.", "FILE", "--policy"),
]


def policy_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a Typer command, which takes `policy: Policy`, an option for each key of the policy."""
    hints = typing.get_type_hints(command, include_extras=True)
    own = [
        parameter(name, hints[name], one.default)
        for name, one in inspect.signature(command).parameters.items()
        if name != "policy"
    ]

    def call(arguments: dict[str, Any]) -> None:
        path = arguments.pop("policy_file")
        given = {name: arguments.pop(_argument(name)) for name in KEYS}
        command(policy=chosen_policy(path, given), **arguments)

    return with_parameters(command, [*own, parameter("policy_file", _FILE), *map(_option, KEYS)], call)


def chosen_policy(path: Path | None, given: dict[str, Any]) -> Policy:
    """The policy of the file, with options over it.

    Args:
        path: the file; None: the default one, if there is one.
        given: values by key; None or empty: not given.

    Raises:
        UsageError: an impossible policy.
    """
    base = None
    if path is not None or DEFAULT_POLICY_PATH.exists():
        base = load_policy(path or DEFAULT_POLICY_PATH)
    return policy_from({key: value for key, value in given.items() if value}, COMMAND_LINE, base)


def _option(name: str) -> inspect.Parameter:
    key = KEYS[name]
    annotation: Any = Annotated[str | None, _typed(key.help, key.kind)]
    if key.kind == "list":
        annotation = Annotated[list[str] | None, _typed(f"{key.help}; repeatable", key.kind)]
    return parameter(_argument(name), annotation)


def _typed(text: str, kind: str) -> Any:
    metavar = {"switch": "TRUE|FALSE", "list": "GLOB"}.get(kind, kind.upper())
    return typer.Option(help=f"{text[:1].upper()}{text[1:]}.", show_default=False, metavar=metavar)


def _argument(name: str) -> str:
    """The Python name of a key's option: ``build_cache_keep`` for ``build_cache.keep``."""
    return name.replace(".", "_")

"""Defaults that commands, the library and the reference have in common."""

from __future__ import annotations

KEEP = "400d"
"""How long all events are kept."""
LEAST_HISTORY = "6.5d"
"""What comes back each week does not show in less: with a shorter history no policy is recommended."""
SPLIT = 0.7
"""The share of a history on which a policy is chosen; it is judged on the rest."""
PULL_RATE = 50e6
"""At which pulls are taken to run where no history shows it, bytes per second."""

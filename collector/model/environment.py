"""The environment variables that are ours; others, as DOCKER_HOST, are read as everybody reads them."""

LOG = "DOCKER_HINDSIGHT_LOG"
"""Where the event log is."""

HOST_NAME = "DOCKER_HINDSIGHT_HOST_NAME"
"""What a collector in a container calls its host."""

CONTAINERD_ROOT = "DOCKER_HINDSIGHT_CONTAINERD_ROOT"
"""Where the engine's containerd keeps its files."""

RESERVE = "DOCKER_HINDSIGHT_RESERVE"
"""Folders on the engine's file systems that the service may write to, with colons between: the units set it."""

JOB_SLOTS = "DOCKER_HINDSIGHT_JOB_SLOTS"
"""Number and configuration, as ``4:/etc/gitlab-runner/config.toml``: the pruner's unit sets it."""

PURE_PYTHON = "DOCKER_HINDSIGHT_PURE_PYTHON"
"""Simulate without the compiled kernel."""

VARIABLES = (LOG, HOST_NAME, CONTAINERD_ROOT, RESERVE, JOB_SLOTS, PURE_PYTHON)

"""Where an engine's bytes lie is asked of its own processes, whatever others call themselves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from collector.engine import places
from collector.engine.places import containerd_root

ADDRESS = "/run/containerd/containerd.sock"


def run(proc: Path, number: int, *argv: str, contained: bool = False, owner: int | None = None) -> None:
    """Have a process, as the kernel shows it."""
    folder = proc / str(number)
    folder.mkdir()
    (folder / "cmdline").write_text("".join(f"{word}\0" for word in argv))
    (folder / "stat").write_text(f"{number} (a) 7) S 1 {number} 0")
    (folder / "status").write_text(f"Name:\tcontainerd\nNSpid:\t{number}{' 1' if contained else ''}\n")
    if owner is not None:
        os.chown(folder, owner, owner)


def test_a_job_that_calls_itself_containerd_moves_no_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc, config = tmp_path / "proc", tmp_path / "config.toml"
    proc.mkdir()
    config.write_text(f'root = "/true"\n[grpc]\naddress = "{ADDRESS}"\n')
    monkeypatch.setattr(places, "_PROC", proc)
    evil = ("containerd", "--address", ADDRESS, "--root", "/evil")
    run(proc, 5, *evil, contained=True)
    if os.geteuid() == 0:
        run(proc, 6, *evil, owner=65534)
    run(proc, 7, "/usr/bin/containerd", "--config", str(config))
    info = {"DockerRootDir": str(tmp_path), "Containerd": {"Address": ADDRESS}}
    assert containerd_root(info, "unix:///nonexistent.sock")[0] == "/true"


def test_files_that_all_import_each_other_are_read_once(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.toml").write_text(f'imports = ["*", "../{tmp_path.name}/*"]\nroot = "/{number}"\n')
    assert places._configuration(tmp_path / "0.toml")["root"].startswith("/")


def test_what_a_containerds_configuration_imports_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc, config, more = tmp_path / "proc", tmp_path / "config.toml", tmp_path / "conf.d"
    for folder in (proc, more):
        folder.mkdir()
    config.write_text(f'root = "/early"\nimports = ["conf.d/*.toml"]\n[grpc]\naddress = "{ADDRESS}"\n')
    # One that imports itself ends, too.
    (more / "root.toml").write_text(f'root = "/late"\nimports = ["{more}/*.toml", 5]\n[grpc]\nuid = 7\n')
    (more / "torn.toml").write_text("root = ")
    monkeypatch.setattr(places, "_PROC", proc)
    run(proc, 7, "/usr/bin/containerd", "--config", str(config))
    info = {"DockerRootDir": str(tmp_path), "Containerd": {"Address": ADDRESS}}
    assert containerd_root(info, "unix:///nonexistent.sock")[0] == "/late"


@pytest.mark.parametrize("address", [f"unix://{ADDRESS}", ADDRESS])
@pytest.mark.parametrize("odd", ["5", '["/evil"]', '"\\u0000"', "{}"])
def test_configuration_of_any_shape_names_a_root_or_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, odd: str
) -> None:
    proc, config, daemon = tmp_path / "proc", tmp_path / "config.toml", tmp_path / "daemon.json"
    proc.mkdir()
    monkeypatch.setattr(places, "_PROC", proc)
    run(proc, 7, "containerd", "--config", str(config))
    run(proc, 8, "dockerd", "--config-file", str(daemon))
    info = {"DockerRootDir": str(tmp_path), "Containerd": {"Address": address}}
    config.write_text(f'root = "/true"\n[grpc]\naddress = "{address}"\n')
    daemon.write_text(f'{{"data-root": {odd}, "containerd": {odd}}}')
    assert containerd_root(info, "unix:///nonexistent.sock")[0] == "/true"
    config.write_text(f'root = {odd}\n[grpc]\naddress = "{address}"\n')
    assert containerd_root(info, "unix:///nonexistent.sock")[0] == ("�" if "u0000" in odd else "/var/lib/containerd")
    config.write_text(f'root = "/true"\n[grpc]\naddress = {odd}\n')
    if "u0000" in odd:
        monkeypatch.setattr(places, "_DEFAULT_CONFIG", config)
    assert containerd_root(info, "unix:///nonexistent.sock")[0] == "/true"

"""The software bill of materials of a release, as CycloneDX: what an installation brings along, with its licences."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageMetadata
from pathlib import Path
from typing import Any

import vl_convert

# What analyzer/report/page/charts.js consists of; all have one licence.
_SCRIPTS: Mapping[str, str] = {
    "vega": vl_convert.get_vega_version(),
    "vega-lite": vl_convert.get_vegalite_versions()[-1],
    "vega-embed": vl_convert.get_vega_embed_version(),
}
_SCRIPTS_LICENCE = "BSD-3-Clause"


def completed(bom: dict[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """What the lock file knows, with licences and the scripts of the report.

    Args:
        bom: the bill that `uv export` writes.
        folder: the libraries that are brought along, which alone are listed; None: all that may be, with what this
            environment says of their licences.
    """
    metadata = _metadata(folder)
    listed = [
        {**component, **_licences(metadata.get(_key(component)))}
        for component in bom["components"]
        if folder is None or _key(component) in metadata
    ]
    scripts = [
        {
            "type": "library",
            "bom-ref": f"{name}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:npm/{name}@{version}",
            "licenses": [{"expression": _SCRIPTS_LICENCE}],
        }
        for name, version in _SCRIPTS.items()
    ]
    root = bom["metadata"]["component"]
    known = {component["bom-ref"] for component in listed} | {root["bom-ref"]}
    edges = {
        edge["ref"]: [ref for ref in edge.get("dependsOn", ()) if ref in known and ref != edge["ref"]]
        for edge in bom["dependencies"]
        if edge["ref"] in known
    }
    edges[root["bom-ref"]] += [script["bom-ref"] for script in scripts]
    return {
        **bom,
        "metadata": {**bom["metadata"], "component": {**root, **_licences(metadata.get(_key(root)))}},
        "components": listed + scripts,
        "dependencies": [{"ref": ref, **({"dependsOn": on} if on else {})} for ref, on in edges.items()],
    }


def _key(component: Mapping[str, Any]) -> tuple[str, str]:
    return _normal(component["name"]), component["version"]


def _metadata(folder: Path | None) -> dict[tuple[str, str], PackageMetadata]:
    """What installed packages say of themselves, by name and version."""
    found: Iterable[importlib.metadata.Distribution] = (
        importlib.metadata.distributions() if folder is None else importlib.metadata.distributions(path=[str(folder)])
    )
    return {(_normal(one.metadata["Name"]), one.version): one.metadata for one in found}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _licences(metadata: PackageMetadata | None) -> dict[str, Any]:
    """The licences of a component as the bill has them; nothing if the package does not name any."""
    if metadata is None:
        return {}
    if (expression := metadata.get("License-Expression")) is not None:
        return {"licenses": [{"expression": expression}]}
    classified = [
        text.rpartition(" :: ")[2] for text in metadata.get_all("Classifier") or () if text.startswith("License :: ")
    ]
    named = classified or [text.splitlines()[0] for text in metadata.get_all("License") or () if text.strip()]
    return {"licenses": [{"license": {"name": name}} for name in named]} if named else {}

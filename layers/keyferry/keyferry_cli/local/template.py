"""What the emulator cannot take from the template: all of it, in this one list.

The local run deploys the same `template.yaml` that AWS gets. `sam build` writes a copy of it anyway, with the paths of
the built artefacts; the changes below are made to that copy, and each says which property of the emulator it is for.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

UNSUPPORTED_RESOURCES: Final[Mapping[str, str | None]] = {
    "AWS::WAFv2::WebACLAssociation": None,
    "AWS::WAFv2::LoggingConfiguration": None,
    "AWS::CloudWatch::Alarm": "Metrics",  # metric math
}
"""Resource types that the emulator refuses a template for; some only with a certain property."""

UNSUPPORTED_PROPERTIES: Final[Mapping[str, str]] = {
    "AWS::Serverless::Function": "DeploymentPreference",  # the transform makes AWS::CodeDeploy::* of it
}
"""Properties that the emulator refuses a template for, by resource type."""

PACKED = ("CodeUri", "ContentUri")


def for_emulator(built: Path) -> Path:
    """Write the emulator's version of a built template next to it and return its path."""
    template: dict[str, Any] = yaml.safe_load(built.read_text(encoding="utf-8"))
    resources: dict[str, dict[str, Any]] = template["Resources"]
    for name in [name for name, resource in resources.items() if _is_unsupported(resource)]:
        del resources[name]
    for resource in resources.values():
        resource.get("Properties", {}).pop(UNSUPPORTED_PROPERTIES.get(resource["Type"]), None)
        _pack(resource, built.parent)
    local = built.with_name("template-local.yaml")
    local.write_text(yaml.safe_dump(template, sort_keys=False), encoding="utf-8")
    return local


def _is_unsupported(resource: Mapping[str, Any]) -> bool:
    kind = resource["Type"]
    needed = UNSUPPORTED_RESOURCES.get(kind)
    return kind in UNSUPPORTED_RESOURCES and (needed is None or needed in resource["Properties"])


def _pack(resource: dict[str, Any], folder: Path) -> None:
    """Zip an artefact once, uncompressed; `sam deploy` would compress it anew for every start of the stack."""
    for name in PACKED:
        uri = resource.get("Properties", {}).get(name)
        if isinstance(uri, str) and (folder / uri).is_dir():
            resource["Properties"][name] = _zip(folder / uri).name


def _zip(folder: Path) -> Path:
    archive = folder.with_name(folder.name + ".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())
                entry.external_attr = 0o644 << 16
                target.writestr(entry, path.read_bytes())
    return archive

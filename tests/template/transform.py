"""Print the template as CloudFormation sees it after the SAM transform, once per variant.

Run by the interpreter of the `sam` environment, which has the transform; needs neither network nor credentials.
Standard input: {"template": path, "variants": {name: {"parameters": {…}, "artifacts": {logical id: URI}}}}.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from samcli.yamlhelper import yaml_parse
from samtranslator.translator.transform import transform


class NoManagedPolicies:
    """Every role of the template is written out, so no policy has to be looked up by name."""

    def load(self) -> dict[str, str]:
        return {}


def transformed(source: str, variant: dict[str, Any]) -> dict[str, Any]:
    template = yaml_parse(source)
    for name, resource in template["Resources"].items():
        for uri in ("CodeUri", "ContentUri"):
            if uri in resource["Properties"]:  # what `sam package` would have put there
                artifact = variant["artifacts"].get(name, "s3://bucket/unchanged")
                resource["Properties"][uri] = artifact
    parameters = {"AWS::Region": "us-east-1", "AWS::Partition": "aws", **variant["parameters"]}
    result: dict[str, Any] = transform(template, parameters, NoManagedPolicies())
    return result


if __name__ == "__main__":
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    request = json.load(sys.stdin)
    text = Path(request["template"]).read_text(encoding="utf-8")
    json.dump(
        {name: transformed(text, each) for name, each in request["variants"].items()}, sys.stdout
    )

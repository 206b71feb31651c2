"""GET /openapi.json, for whom IAM lets in"""

from pathlib import Path

from keyferry.edge.endpoint import Route, endpoint
from keyferry.keyring.openapi import OpenApi

document = OpenApi.from_environ(Path(__file__).with_name("openapi.json"))

lambda_handler = endpoint({("GET", "/openapi.json"): Route(document)})

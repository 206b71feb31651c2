"""One process, one request: connect, say so, wait for the word, send. Standard library only.

stdin: a JSON line {"url", "headers", "body"}, then an empty line when everybody is ready.
stdout: "ready", then a JSON line {"status", "body"}.
"""

import http.client
import json
import sys
from urllib.parse import urlsplit

request = json.loads(sys.stdin.readline())
url = urlsplit(request["url"])
connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=240)
connection.connect()
print("ready", flush=True)  # noqa: T201
sys.stdin.readline()
connection.request("POST", url.path, request["body"], request["headers"])
response = connection.getresponse()
print(json.dumps({"status": response.status, "body": response.read().decode()}))  # noqa: T201

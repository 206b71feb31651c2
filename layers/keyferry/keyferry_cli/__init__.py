"""The `keyferry` command for operators, and the local run. Never part of a layer."""

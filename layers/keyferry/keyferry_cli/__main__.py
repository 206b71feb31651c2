"""`python -m keyferry_cli` is the `keyferry` command."""

from keyferry_cli.app import main

main()

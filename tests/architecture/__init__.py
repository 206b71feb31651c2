"""The diagram of docs/img/architecture.svg, drawn from template.yaml: `make diagram`."""

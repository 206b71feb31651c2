"""What refresh rotation does to honest phones and to thieves: Keyferry beside other designs.

`rules` has the published rule of each design, `phones` the honest devices, `thieves` the others,
`report` the tables and the plot. Run it with `make simulate`.
"""

"""Parameters of the nodes: names, defaults, ranges and meanings, and their declaration."""

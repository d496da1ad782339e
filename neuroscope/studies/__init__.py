"""Studies: each combines the other parts of the package into a sequence of steps."""

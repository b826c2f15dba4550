"""The decision: what goes, in which order, and why. Pure."""

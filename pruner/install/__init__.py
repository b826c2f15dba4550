"""Installing the units."""

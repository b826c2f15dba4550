"""This host: its disks, clocks, service manager, reserve, locks, and what collector and pruner leave each other."""

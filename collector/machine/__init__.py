"""This host: its disks, clocks, service manager, reserve, and the call that wakes the pruner."""

"""The words of the log: events, images, jobs, names, times, units. No I/O."""

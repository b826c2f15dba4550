"""Questions to the log: status, images, jobs, stories, totals, whether it is consistent."""

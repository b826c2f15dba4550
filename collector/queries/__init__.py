"""Questions to the log: status, images, jobs, stories."""

"""Commands of the collector: the upkeep of its log, and what others recorded of jobs."""

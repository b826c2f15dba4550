"""Who else knows of jobs: the runner's log, GitLab, lists of jobs."""

"""Commands that prune nothing."""

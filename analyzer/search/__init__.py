"""Searching over policies, hosts and allowlists."""

"""Checking recorded prunes, and what images cost."""

"""Replaying a history under another policy."""

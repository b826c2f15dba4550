"""Carrying a plan out on an engine."""

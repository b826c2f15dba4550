"""The compiled replay's building blocks."""

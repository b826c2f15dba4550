"""A log's events where a fleet's logs come together: written, merged, forgotten."""

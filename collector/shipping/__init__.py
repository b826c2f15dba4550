"""New events of a log, written where a fleet's logs come together."""

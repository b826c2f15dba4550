"""Commands of the collector that are about its log as a whole."""

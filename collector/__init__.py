"""Floor 1: the event vocabulary, the event log, the sources of events and the daemon that collects them."""

"""What a container engine says: its API, event stream, translation, content store."""

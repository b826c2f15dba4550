"""What a release consists of, installed where nothing else is."""

"""What the analyzer's commands have in common on the command line."""

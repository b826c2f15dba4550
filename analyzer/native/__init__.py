"""The compiled kernel: its source, how it is loaded and called."""

"""The collector itself: its loop and what it watches."""

"""The collector's commands beside `run`: to show, to import, and for the log's upkeep."""

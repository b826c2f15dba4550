"""A history as arrays: read from logs, or written as Parquet."""

"""The event log: its schema, appends that lose nothing, the spool, projections, compaction, salvage."""

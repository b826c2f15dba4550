"""Floor 3: replay of recorded history under other policies, comparison and reports."""

"""What the analyzer prints, and the HTML report."""

"""The policy: its values, file format, orders, and other tools' settings."""

"""What commands print: tables, sizes, errors in one line."""

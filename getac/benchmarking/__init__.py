"""`getac bench`: models side by side."""

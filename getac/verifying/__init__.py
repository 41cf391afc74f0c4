"""What is compared with what, and by which numbers."""

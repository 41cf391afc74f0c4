"""Integers of few bits in a file: how they are packed, what restores them, and how that is read again."""

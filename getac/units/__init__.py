"""Which units go: choices, blocks that keep counts aligned, what a unit saves."""

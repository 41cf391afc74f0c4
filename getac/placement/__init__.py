"""Where integers go: what runs on them, by which strategy, at which channel counts."""

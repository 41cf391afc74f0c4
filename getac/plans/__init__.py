"""Plans: every decision of a lowering, written down and replayed."""

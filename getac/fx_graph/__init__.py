"""Everything that knows torch.fx: capture, the operator table, the view for the analysis, and editing."""

"""QASSO: joint structured pruning and quantization in one training run (arXiv 2502.16638)."""

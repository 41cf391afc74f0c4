"""The training front end: captured modules with learnable quantizers, sliced while they train."""

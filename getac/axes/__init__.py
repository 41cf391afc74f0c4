"""Axis types: which indices of which tensor dimensions belong to the same unit.

`axis` holds the types, `unify` solves equations between them, `infer` walks a graph and lets every
operator's rule contribute its equations, `slabs` tracks what the slice of a removed unit holds.
"""

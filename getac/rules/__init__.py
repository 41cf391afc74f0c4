"""One rule per operator family, for both graphs.

A rule is a frozen dataclass: its fields are the operator's arguments in normal form, its methods are the
operator's concerns, side by side: `axes` (which dimensions are the same), `slabs` (what a removed or dead
unit's slice holds), `macs` (cost). A graph's operator table says which rule a node follows and where the
arguments stand; an operator without a rule is opaque.
"""

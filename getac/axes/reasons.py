"""Why axes are frozen, and what a person can do about it: one table for all rules."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GLOB", "Reason"]

GLOB = "GLOB"
"""Stands in a hint for the name of a parameter in which the axis lies."""


@dataclass(frozen=True, slots=True)
class Reason:
    """A kind of freeze.

    Args:
        text: Why the axis must keep all of its units; `{}` stands for what `about` fills in.
        hint: What a person can do about it.
    """

    text: str
    hint: str

    def about(self, *details: object) -> Reason:
        return Reason(self.text.format(*details), self.hint)

    def touched_through(self, operator: str) -> Reason:
        """The reason of what touches a node that has no equations, for this reason."""
        return Reason(f"touches {operator}: {self.text}", self.hint)


INTERFACE = "nothing to do: the graph's inputs and outputs keep their sizes"
GRAPH_INPUT = Reason("a graph input", INTERFACE)
GRAPH_OUTPUT = Reason("a graph output", INTERFACE)
OUTPUT_SIZE = Reason("its size is a graph output", "return the tensor alone; whoever reads it sees its size")
KEPT = Reason("kept on request", "drop the glob of keep that matches this parameter")

OPEN = f"open it with --prune '{GLOB}' (prune=['{GLOB}']): masked then differs from sliced"
NORMALIZED = Reason("a normalised axis", OPEN)
REDUCED = Reason("a reduced axis", OPEN)

MIXED = "nothing to do: every entry along the axis has a say in what becomes of the others"
SOFTMAX = Reason("the axis of a softmax", MIXED)
VECTOR_NORM = Reason("normalised across its entries", MIXED)
EVERY_ENTRY = Reason("a reduction that every entry decides", MIXED)
SORTED = Reason("a sorted axis", MIXED)
CUMULATED = Reason("a cumulative sum", MIXED)
CUMULATED_PRODUCT = Reason("a cumulative product", MIXED)
DIFFERENCES = Reason("differences of neighbours", MIXED)
FOURIER = Reason("a Fourier transform", MIXED)
EPSILON = "give the normalisation an epsilon, so that a channel of zeros stays finite"
NO_EPSILON = Reason("normalised without an epsilon", EPSILON)

PLACES = "nothing to do: along this axis a place has a meaning of its own"
SPATIAL = Reason("a spatial dimension", PLACES)
CONVOLUTION_WINDOW = Reason("the window of a convolution", PLACES)
UNFOLD_WINDOW = Reason("the window of an unfold", PLACES)
PIXEL_BLOCK = Reason("the block of a pixel shuffle", PLACES)
CAUSAL = Reason("the positions of a causal mask", PLACES)
STEPS = Reason("the steps of a recurrence", PLACES)
DIRECTIONS = Reason("the directions of a recurrence", PLACES)
STACKED = Reason("a stack of tensors", PLACES)
INTERLEAVED = Reason("interleaved parts", PLACES)
DIAGONAL = Reason("a diagonal", PLACES)
TRIANGLE = Reason("a triangle of a matrix", PLACES)
REVERSED = Reason("a reversed axis", PLACES)
ROLLED = Reason("a rolled axis", PLACES)
RANGE = Reason("a range", PLACES)
PADDING = Reason("the padding of a dimension", PLACES)
COMPLEX = Reason("the real and the imaginary part", PLACES)
RANDOM = Reason("random numbers", "nothing to do: what is drawn belongs to no unit")
SIZE_LIST = Reason("a list of sizes", PLACES)

SLICE_INSTEAD = "read fixed places by a slice or a split; what is read at computed places must stay"
INDEXED = Reason("an indexed axis", SLICE_INSTEAD)
PARTLY_INDEXED = Reason("indexed in part", SLICE_INSTEAD)
WRITTEN = Reason("an axis of written entries", "put tensors together by a concatenation, which is followed")
EMPTY_SLICE = Reason("sliced to nothing", "leave the empty slice out")
SLICED_IN_STEPS = Reason("sliced in steps", "begin below the step and take a step that divides the axis")
RESIZED = Reason("a resized dimension", "resize spatial dimensions alone")
PADDED = Reason("a padded dimension", "fill up with a constant: it is a part of its own then")

FIXED_SIZES = "write the sizes out, or compute them from shapes by +, * and // alone"
COMPUTED_PLACE = Reason("sliced at a computed place", FIXED_SIZES)
COMPUTED_SIZE = Reason("its size is computed in a way that is not followed", FIXED_SIZES)
COMPUTED_RESHAPE = Reason("a reshape to sizes that are computed in a way that is not followed", FIXED_SIZES)
COMPUTED_EXPAND = Reason("expanded to sizes that are computed in a way that is not followed", FIXED_SIZES)
COMPUTED_FILL = Reason("filled to sizes that are computed in a way that is not followed", FIXED_SIZES)
COMPUTED_REPEATS = Reason("repeated a number of times that is not followed", FIXED_SIZES)
SIZE_AS_NUMBER = Reason(
    "its size is used as a number",
    "write the number out as a constant: it would change with the units",
)
ARGUMENT = Reason("an argument of {}", "nothing to do: the operator takes it whole")

DIVIDE = "choose numbers of heads, groups or parts of which one divides the other"
COPIED_SIZE = Reason("a reshape copies the size of another axis", "write the size itself in place of the 0")
SPLIT_ELSEWHERE = Reason("a reshape splits the axis where its units do not", DIVIDE)
PARTS_APART = Reason("parts that are laid end to end do not line up", DIVIDE)

NOT_ZERO = Reason(
    "summed where a removed unit would not be zero",
    "put a function that keeps zero (ReLU, tanh, GELU) before the sum, or a multiplication behind the offset",
)
NOT_FINITE = Reason(
    "a removed unit would not stay finite",
    "add an epsilon to what is divided by or goes into a logarithm; fold weight norms into plain weights",
)

RULE = "replace the operator, or write a rule for it (see CONTRIBUTING)"
NO_RULE = Reason("no rule for this operator", RULE)
NOT_FOLLOWED = Reason(
    "arguments that are not followed: {}",
    "write it by other operators, or with arguments that are numbers of the graph",
)
WRITES_VIEW = Reason(
    "writes into a tensor that is read by another name, too",
    "compute a new tensor (y = x + 1) in place of one that is written to (x.add_(1))",
)
SHAPES = "export with known shapes: fixed sizes, or a batch dimension alone that is open"
NO_INPUT_SHAPE = Reason("the shape of its input {} is not known", SHAPES)
NO_OUTPUT_SHAPE = Reason("the shape of its output {} is not known", SHAPES)
EMPTY_INPUT = Reason("its input {} is empty", "leave out the tensor without entries")

REPORT = "the graph contradicts itself, or a rule is wrong: please report it"
WRONG_RESULT = Reason("its rule and the shape of its result disagree", REPORT)
UNEQUAL_SIZES = Reason("sizes {} and {} must be equal and are not", REPORT)
SELF_CONTAINING = Reason("an axis would contain itself", REPORT)

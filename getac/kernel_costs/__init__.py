"""What kernels of onnxruntime take, as measured: the table, its predictions, its file."""

from getac.kernel_costs.reading import default_table, read_table
from getac.kernel_costs.shape import Kind, LayerShape, Strategy
from getac.kernel_costs.table import CostTable

__all__ = ["CostTable", "Kind", "LayerShape", "Strategy", "default_table", "read_table"]

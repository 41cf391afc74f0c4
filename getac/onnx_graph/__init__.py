"""ONNX files and graphs: reading, checking, writing, shapes, and the view that the analysis works on."""

"""ONNX graphs: writing nodes, saving to files, running. Every stage uses it."""

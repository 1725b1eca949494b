"""ONNX graphs: operators and files. Every stage uses it."""

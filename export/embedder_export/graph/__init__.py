"""Write, save and run ONNX graphs. Every stage uses it."""

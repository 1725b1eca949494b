"""Running a graph on a device. The only folder that knows onnxruntime."""

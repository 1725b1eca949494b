"""Running a graph on a device. The only folder that knows onnxruntime."""

from embedder.common.cpp_runtime import check_cpp_runtime

# It stands here so that it runs before any module of this folder imports onnxruntime.
check_cpp_runtime("onnxruntime")

"""Files of torch.save are read without torch: the same numbers as torch reads, or a message that says what is wrong."""

from collections import OrderedDict

import numpy as np
import torch
from embedder_export.checkpoint.torch_format.read import read_torch_file, torch_tensor_names
from hypothesis import given
from hypothesis import strategies as st

FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
WAYS_TO_SAVE = {
    "zip": {},
    "old": {"_use_new_zipfile_serialization": False},
    "protocol 4": {"pickle_protocol": 4},
    "old, protocol 3": {"_use_new_zipfile_serialization": False, "pickle_protocol": 3},
}
# Views of a tensor. Some of them are not contiguous, and some are empty.
VIEWS = [
    lambda tensor: tensor,
    lambda tensor: tensor.T,
    lambda tensor: tensor[1:],
    lambda tensor: tensor[:, ::2],
    lambda tensor: tensor[:0],
    lambda tensor: tensor[0, 0],
    lambda tensor: tensor.reshape(1, -1, 1),
    lambda tensor: tensor[:1].expand(tensor.shape[0], -1),
    lambda tensor: torch.nn.Parameter(tensor) if tensor.is_floating_point() else tensor,
]


@st.composite
def state_dicts(draw):
    """State dicts of tensors that may be views of one another."""
    tensors = []
    for dtype in draw(st.lists(st.sampled_from(FLOATS + INTEGERS), min_size=1, max_size=3)):
        shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
        tensors.append(torch.arange(shape[0] * shape[1]).reshape(shape).to(dtype))
    names = draw(st.lists(st.text(st.characters(codec="utf-8"), max_size=8), unique=True, max_size=6))
    state = {name: draw(st.sampled_from(VIEWS))(draw(st.sampled_from(tensors))) for name in names}
    return OrderedDict(state) if draw(st.booleans()) else state


@given(state_dicts(), st.sampled_from(list(WAYS_TO_SAVE)), st.booleans())
def test_the_numbers_are_those_of_torch(tmp_path_factory, state, way, checksums):
    path = tmp_path_factory.mktemp("file") / "pytorch_model.bin"
    torch.serialization.set_crc32_options(checksums)
    try:
        torch.save(state, path, **WAYS_TO_SAVE[way])
    finally:
        torch.serialization.set_crc32_options(True)
    expected = {name: tensor.detach() for name, tensor in torch.load(path, weights_only=False).items()}
    read = read_torch_file(path)
    assert torch_tensor_names(path) == expected.keys()
    assert list(read) == [name for name, tensor in expected.items() if tensor.is_floating_point()]
    for name, tensor in read.items():
        assert tuple(tensor.shape) == tuple(expected[name].shape)
        assert tensor.dtype.name.lower().replace("double", "float64") in f"{expected[name].dtype}32"
        np.testing.assert_array_equal(tensor.numpy().astype(np.float64), expected[name].double().numpy(), strict=True)

"""Read the files that `torch.save` writes, without torch. Only plain tensors by name are read; no code is ever run."""

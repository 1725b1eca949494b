"""Write the checkpoints of the GPU benchmark. It needs torch and transformers."""

import torch
from transformers import XLMRobertaConfig, XLMRobertaModel

from benchmarks.gpu.models import CLIP_PATCH, CLIP_SIDE, MODELS
from tests.checkpoints import SMALL
from tests.clips import PREPROCESSOR, write_clip
from tests.families import XLM_ROBERTA_ROWS, Layout, bert, mpnet, unigram, write_family


def write_model(name, directory, *, full):
    """Write a checkpoint with random weights. They are the same each time."""
    torch.manual_seed(0)
    return MAKERS[name](directory, full)


def xlm_roberta(directory, full):
    """Write a checkpoint of the size of XLM-RoBERTa base."""
    return _xlm_roberta(directory, full, {"max_position_embeddings": 514}, Layout(512))


def bge_m3(directory, full):
    """Write a checkpoint of the size of bge-m3: XLM-RoBERTa large for 8,192 tokens."""
    tower = MODELS["bge-m3"].text
    sizes = {**sizes_of(tower), "num_attention_heads": 16, "max_position_embeddings": 8194}
    return _xlm_roberta(directory, full, sizes, Layout(8192, "cls", normalize=True))


def _xlm_roberta(directory, full, sizes, layout):
    tokenizer = unigram()
    small = SMALL | {"max_position_embeddings": layout.max_seq_length + 2}
    shape = {"layer_norm_eps": 1e-5, **sizes} if full else small
    rows = XLM_ROBERTA_ROWS if full else len(tokenizer)
    config = XLMRobertaConfig(vocab_size=rows, type_vocab_size=1, **shape)
    return write_family(directory, XLMRobertaModel(config), tokenizer, layout)


def clip(directory, full):
    """Write a checkpoint of the size of clip-ViT-B-32."""
    if not full:
        return write_clip(directory)
    model = MODELS["CLIP-B-32"]
    text = {**sizes_of(model.text), "num_attention_heads": 8}
    vision = {**sizes_of(model.image), "num_attention_heads": 12, "image_size": CLIP_SIDE, "patch_size": CLIP_PATCH}
    sizes = {"size": {"shortest_edge": CLIP_SIDE}, "crop_size": {"height": CLIP_SIDE, "width": CLIP_SIDE}}
    return write_clip(directory, text=text, vision=vision, projection_dim=512, preprocessor=PREPROCESSOR | sizes)


def sizes_of(tower):
    return {"hidden_size": tower.width, "intermediate_size": tower.inner, "num_hidden_layers": tower.layers}


# all-MiniLM-L6-v2 has its real weights at true size. This one is for small models.
MAKERS = {"all-MiniLM-L6-v2": bert, "MPNet-base": mpnet, "XLM-R-base": xlm_roberta, "bge-m3": bge_m3, "CLIP-B-32": clip}

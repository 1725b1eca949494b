"""ELECTRA (Clark et al., 2020: https://arxiv.org/abs/2003.10555). It has no native builder, so it is traced."""

from embedder_export.families.bert import BertSettings
from embedder_export.families.family import Family

ELECTRA = Family("electra", "ElectraTokenizer", BertSettings, builders={})

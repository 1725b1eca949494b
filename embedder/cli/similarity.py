"""`embedder similarity`: print the similarity of two texts."""

from __future__ import annotations

import argparse

from embedder.cli.commands import DEFAULT_MODEL, Commands, add_command, add_model_options, load_model

_DESCRIPTION = """Print the similarity of two texts, by the model's own similarity function. For
most models this is the cosine, from -1 to 1. Similar texts have a higher
number."""
_EXAMPLE = """  embedder similarity "A dog plays in the garden." "pets in the yard\""""


def add_parser(commands: Commands) -> None:
    """Add `embedder similarity`."""
    parser = add_command(
        commands, "similarity", "compare two texts", usage="A B", description=_DESCRIPTION, example=_EXAMPLE
    )
    parser.add_argument("a", metavar="A", help="a text")
    parser.add_argument("b", metavar="B", help="another text")
    add_model_options(parser, DEFAULT_MODEL)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the similarity of two texts."""
    model = load_model(options, options.model)
    a, b = model.encode([options.a, options.b], read_paths=False)
    print(f"{model.similarity(a, b).item():.4f}")

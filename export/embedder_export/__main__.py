"""The command `embedder-export`, also as `python -m embedder_export`."""

import sys

from embedder.errors import DependencyError


def main() -> int:
    """Run the command line on the arguments of this process, and return the exit status.

    The exporter needs onnxruntime at its import. If that is missing, the message says how to install it.

    Example:
        >>> main()  # doctest: +SKIP
        0
    """
    try:
        from embedder_export.cli import main as run
    except DependencyError as error:
        print(f"embedder-export: error: {error}", file=sys.stderr)
        return 1
    return run()


if __name__ == "__main__":
    sys.exit(main())

"""Run the command `embedder-export` as `python -m embedder_export`."""

import sys

from embedder_export.cli import main

sys.exit(main())

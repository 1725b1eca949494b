"""Run the command line: `python -m embedder` does the same as `embedder`."""

from __future__ import annotations

import sys

from embedder.cli.main import main

sys.exit(main())

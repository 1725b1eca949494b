"""`python -m embedder_export` is `embedder-export`."""

import sys

from embedder_export.cli import main

sys.exit(main())

"""`python -m embedder` is `embedder`."""

from __future__ import annotations

import sys

from embedder.cli.main import main

sys.exit(main())

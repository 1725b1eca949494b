"""`python -m embedder` is `embedder`."""

import sys

from embedder.cli.main import main

sys.exit(main())

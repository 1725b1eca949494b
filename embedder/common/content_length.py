"""The header Content-Length, which strangers write."""

from __future__ import annotations

# A length of more digits is far beyond any limit. Python refuses to read numbers of thousands of digits.
MAX_LENGTH_DIGITS = 20

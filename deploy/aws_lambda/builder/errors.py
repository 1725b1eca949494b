"""The error of the builder."""

from __future__ import annotations


class BuildError(Exception):
    """The zip cannot be built. The message says why, and what to do.

    Example:
        >>> raise BuildError("no model")
        Traceback (most recent call last):
        ...
        deploy.aws_lambda.builder.errors.BuildError: no model
    """

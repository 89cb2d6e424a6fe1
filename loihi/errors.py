"""The one exception that a user is meant to read."""

from __future__ import annotations


class PumiceError(Exception):
    """One clear line for the user: what is wrong, where, and what to do about it."""

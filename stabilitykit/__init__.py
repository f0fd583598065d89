"""Exact, certified measurements of a language model's floating-point stability, as pytest tests."""

__version__ = "0.1.0"

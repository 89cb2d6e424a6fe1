"""Measurements: ``python -m bench.training | memory | engine | onchip [--json]``."""

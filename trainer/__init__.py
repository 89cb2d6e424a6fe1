"""Training on the chip's own numbers. Imports nothing: ``trainer.data`` works without torch."""

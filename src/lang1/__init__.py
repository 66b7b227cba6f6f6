"""Lang1: train, benchmark and judge small clinical language models on a hospital's own records."""

__version__ = "0.1.0"

"""The Lang1 model family."""

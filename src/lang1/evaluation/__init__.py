"""Scorers, predictions and the results table."""

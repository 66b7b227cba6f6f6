"""Tokenizer, question templates, truncation to a budget, batches in which several questions share a note."""

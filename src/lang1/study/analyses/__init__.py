"""The analyses of a study: one file a question, each a function from the context to an ``Analysis`` or None."""

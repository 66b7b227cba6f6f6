"""One health system as tables: schema, store and readers."""

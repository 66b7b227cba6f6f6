"""What every room shares: artefact folders, settings, errors, progress, identities, the prediction schema."""

"""AUROC and its kin: NumPy in, numbers out."""

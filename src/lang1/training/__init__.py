"""Training: pretraining and finetuning with exact resume."""

"""The resumable runner and its steps."""

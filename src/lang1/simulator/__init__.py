"""Health systems that can be made anywhere and whose exact risks are known."""

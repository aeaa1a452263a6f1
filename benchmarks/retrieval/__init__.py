"""How well recall finds the evidence of questions about long conversations. See `__main__`."""

"""How well questions are answered over long conversations, with observational memory and without."""

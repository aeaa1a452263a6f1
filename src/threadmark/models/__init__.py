"""Language models: the protocol in `base`, and a module per backend."""

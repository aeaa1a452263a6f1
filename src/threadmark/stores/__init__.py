"""Where memory is kept: the contract in `base`, and a package or module per database."""

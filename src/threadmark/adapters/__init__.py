"""Memory for agents of other frameworks. Each module imports its framework, so none is imported here."""

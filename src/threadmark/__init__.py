"""Memory for Python agents that people can trust."""

"""Finding messages: text to terms, lexical and semantic scores, one ranking out of both.

Nothing in this package reads a database or a clock, except that `index` holds the statements a SQL store
runs in its own transaction.
"""

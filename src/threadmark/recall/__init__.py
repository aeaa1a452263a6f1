"""Finding messages: text to terms, lexical and semantic scores, one ranking out of both.

Nothing in this package reads a database or a clock. Stores keep the index and provide it as a
`gather.Source`; `memory` asks them.
"""

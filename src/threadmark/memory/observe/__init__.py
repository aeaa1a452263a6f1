"""Observational memory: a log of what was said, noted as the conversation goes on, in place of old messages.

`_types` is what passes between the core and the models behind it.
"""

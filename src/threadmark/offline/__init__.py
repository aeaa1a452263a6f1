"""An answer without any language model: quotes of what memory holds.

from threadmark import Agent, Memory
from threadmark.offline import OfflineResponder

memory = Memory("sqlite:///chat.db")
agent = Agent("quotes", model=OfflineResponder(memory.resource("ana")), memory=memory)
"""

from ._responder import OfflineResponder
from ._search import Found, Quote, search

__all__ = ["Found", "OfflineResponder", "Quote", "search"]

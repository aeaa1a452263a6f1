"""Moving a whole database to another store, and finding and repairing what is wrong in one."""

from ._check import Problem, check_store
from ._copy import CopyProgress, CopyReport, copy_store

__all__ = ["CopyProgress", "CopyReport", "Problem", "check_store", "copy_store"]

"""`RunDirectory`, where recipes look for it."""

from memory_defense.run_directory import RunDirectory

__all__ = ["RunDirectory"]

"""The audit of an evaluation; `run.audit` is its entry."""

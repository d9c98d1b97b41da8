"""Evaluation: what survives, how sure we are of it, and whether the evaluation itself can be believed."""

"""Defenses: classifiers that publish what a knowing adversary would differentiate."""

"""Situations that users of robustness toolkits reported, asked of every toolkit; `compare_cases.py` runs them."""

"""Recipes: values that say what is trained and how it is judged; `registry` has them by name."""

"""Datasets: where they come from, how they are checked, cut, batched and augmented."""

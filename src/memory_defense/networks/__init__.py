"""Classifiers that take images in [0, 1]; they know nothing of defenses or attacks."""

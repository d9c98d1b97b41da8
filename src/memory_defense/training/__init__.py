"""Training: one loop for every objective, the objectives of classifiers, and checkpoints."""

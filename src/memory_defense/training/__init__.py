"""Training: one loop that knows no method by name, its objectives, and checkpoints."""

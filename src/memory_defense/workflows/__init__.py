"""What is done with models and images, one file a verb: train, evaluate, assess, harden, predict, demo."""

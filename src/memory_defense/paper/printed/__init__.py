"""The reproduction on paper: its tables and figures beside the published numbers, from records alone."""

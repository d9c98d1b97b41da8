"""The made-up dataset and the run of the fault tests, for messages about runs."""

from faults.conftest import idx_folder, small_world, trained_run

__all__ = ["idx_folder", "small_world", "trained_run"]

"""The test images of a run that was trained on a user's own, from the place in its manifest."""

from __future__ import annotations

from memory_defense.data.images import ImageSet
from memory_defense.data.sources import DataNotFoundError
from memory_defense.data.spec import DATASETS
from memory_defense.studio.runs import Run
from memory_defense.workflows.run_images import ImagesFrom, kept_images_from, splits_of

_INSTEAD = "upload or draw one"


def own_source(run: Run) -> ImagesFrom | None:
    """Return the source of a run's own images in its manifest; None for a known dataset, or if it is not there.

    Raises ValueError for a damaged manifest, or a damaged entry.
    """
    try:
        kept = kept_images_from(run.directory.read(), run.directory.manifest_path)
    except ValueError as error:
        raise ValueError(f"{_reason(error)}: {_INSTEAD}") from error
    return None if kept is None or kept.source in DATASETS else kept


def own_test_images(run: Run, source: ImagesFrom) -> ImageSet:
    """Return a run's own test images, in the order of its evaluation; all its images are read and checked.

    Nothing but the manifest says where they are, and they are those that its SHA-256 says, or none.

    Raises
    ------
    ValueError
        If they are not there, or are no longer those of the run; the text is for the page.
    """
    try:
        return splits_of(run.directory, offline=True).test
    except DataNotFoundError as error:
        raise ValueError(
            f"{run.name} was trained on your own images in {source.source}, which is not there any more: put them "
            f"back and choose the run again, or {_INSTEAD}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{_reason(error)}: restore them and choose the run again, or {_INSTEAD}") from error


def _reason(error: ValueError) -> str:
    """Return what is wrong without the remedy, which is for the command line."""
    reason, _, _ = str(error).rpartition("; ")
    return reason or str(error)

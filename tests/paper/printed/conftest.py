"""Records made for tests, as in `reporting`."""

from reporting.conftest import factory, record, shared_record

__all__ = ["factory", "record", "shared_record"]

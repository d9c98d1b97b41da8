"""From a specification to a module, and to and from files."""

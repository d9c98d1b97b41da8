"""``python -m memory_defense`` is ``memdef``."""

from memory_defense.cli import main

if __name__ == "__main__":
    main()

"""``python -m lesion.cli``."""

from lesion.cli import main

if __name__ == "__main__":
    main()

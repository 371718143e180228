"""Studies that are killed, and whose disk and memory fail; ``python -m tests.faults`` for all of it."""

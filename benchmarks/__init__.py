"""How fast lesion is, beside what people would use otherwise: ``python -m benchmarks``.

Both sides of a row run in one process, on the same model, inputs and masks, by turns; that they give the same is checked before
anything is timed. A row's goal is a ratio, since a ratio means the same on a slow machine.
"""

"""Masking sets of neurons and measuring what that does: evaluator, sweep, minimal set, controls, CLIP score."""

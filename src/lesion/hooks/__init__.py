"""Attaching to a model's modules: to capture what passes, and to intervene."""

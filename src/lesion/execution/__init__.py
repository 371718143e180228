"""Executors: who computes what a study asks. Without one, the study's own process does."""

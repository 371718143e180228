"""How the embedded models were made: ``python -m training.tiny_clip``, ``.tiny_llava`` and ``.tiny_instructblip``.

Each command draws its scenes as it goes, trains on the CPU or on a GPU if there is one, measures the result on
held-out scenes, and writes weights, processor and model card to ``src/lesion/zoo/<name>``.
"""

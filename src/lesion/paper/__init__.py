"""Every experiment of arXiv 2512.00918, and the checks that it lacks: one module a part.

>>> from lesion.paper import opened, paper, where
>>> everything = paper(["tiny-llava"], quick=True)  # all of them, with tables, figures and a summary
>>> with opened("tiny-llava", quick=True) as subject:  # or one by one
...     where(subject).table()
"""

from lesion.paper.categories import categories
from lesion.paper.collapse_modes import collapse_modes
from lesion.paper.expected import expected
from lesion.paper.luck import luck
from lesion.paper.masks import masks
from lesion.paper.methods import methods
from lesion.paper.opening import opened
from lesion.paper.plan import Plan
from lesion.paper.run import Paper, paper
from lesion.paper.stability import stability
from lesion.paper.two_stages import two_stages
from lesion.paper.verdict import judge
from lesion.paper.where import where

__all__ = [
    "Paper", "Plan", "categories", "collapse_modes", "expected", "judge", "luck", "masks", "methods", "opened", "paper",
    "stability", "two_stages", "where",
]  # fmt: skip

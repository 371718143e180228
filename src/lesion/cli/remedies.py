"""The commands that do something about a finding, by name."""

from __future__ import annotations

from lesion.cli.export import export
from lesion.cli.faults import faults
from lesion.cli.guard import check, make, repair
from lesion.cli.harden import harden

REMEDIES = {"export": export, "harden": harden, "faults": faults}
GUARD = {"make": make, "check": check, "repair": repair}
"""Below ``lesion guard``."""

"""The test suite. Nothing here may reach for a hub, and the libraries read this when they are imported."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

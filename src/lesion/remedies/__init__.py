"""From a finding to something to act on: models with a set of neurons masked for good."""

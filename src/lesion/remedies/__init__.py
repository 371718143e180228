"""From a finding to something to act on: masked and hardened checkpoints, guards of weights, simulated faults, rounding."""

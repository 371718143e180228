"""What a study will take, before it is run: passes, time, memory and disk."""

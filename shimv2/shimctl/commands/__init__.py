"""The commands of `shimctl`, one module each."""

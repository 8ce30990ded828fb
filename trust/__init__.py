"""Trust: faults, load and bad input on purpose, and what was lost by it."""

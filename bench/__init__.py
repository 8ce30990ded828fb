"""``python -m bench``: how fast the application is on this machine, with each contender measured in the same run."""

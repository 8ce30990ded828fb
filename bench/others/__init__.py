"""Other programs with the same purpose, run in environments of their own, which have little of this project."""

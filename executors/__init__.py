"""The boxes of the two Flow diagrams: one class with one job in one file, and what they share."""

VERSION = "0.1.0"

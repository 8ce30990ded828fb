"""The same Flow as somebody ports it who does not measure: float32, whole contexts, floats of pixels in messages."""

"""A Flow whose boxes do nothing: what Jina itself costs."""

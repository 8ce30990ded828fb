"""How well a model finds: the measures, the original's protocol through the Flow, and the report over all models."""

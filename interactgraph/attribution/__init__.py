"""How strongly a source feature drives a target feature."""

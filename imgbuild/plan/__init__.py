"""Instructions to a build plan: every word expanded, every config folded; no I/O."""

"""The engine: for each step a cached layer, or a new one."""

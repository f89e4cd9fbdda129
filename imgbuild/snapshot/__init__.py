"""Root file systems: look-ups over layer indexes, unpacked trees, changes."""

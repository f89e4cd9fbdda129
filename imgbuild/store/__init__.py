"""The local store: an OCI image layout with names, step cache and locks."""

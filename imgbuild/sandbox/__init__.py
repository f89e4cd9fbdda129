"""Where a RUN step runs: what this host allows, id maps, launching, sessions."""

"""Layer tars: entries, index, deterministic writer, hardened reader, compression."""

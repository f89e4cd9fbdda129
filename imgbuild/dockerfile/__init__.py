"""Text of a Dockerfile to typed instructions with spans; no I/O."""

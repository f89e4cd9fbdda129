"""OCI documents as typed values: digests, descriptors, references, configs, manifests."""

"""The stand-alone half that runs inside the namespaces."""

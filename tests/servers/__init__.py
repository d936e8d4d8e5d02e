"""Real servers with real worker processes, driven over HTTP."""

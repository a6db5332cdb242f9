"""Filling the cache of prepared volumes before a run needs it. A site runs this on its own scans."""

"""Many runs that answer questions together: what they were, what they found, and what may be said about it."""

"""The page of a study: many trained models that answer questions together."""

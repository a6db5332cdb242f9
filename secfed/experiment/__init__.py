"""A whole run: data, training jobs, references, evaluation, results."""

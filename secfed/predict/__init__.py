"""Segment scans with a trained model and hand the labels back on the scans' own voxels, for whoever has both."""

"""A physics-based synthetic abdomen: random anatomy, scanned by a simulated CT or MRI scanner, written as NIfTI."""

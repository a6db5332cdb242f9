"""Physics-based synthetic patients: random anatomy, scanned by a simulated CT or MRI scanner, written as NIfTI."""

"""Ways to run the same two Flower apps: in one process, or under Flower's Ray simulation."""

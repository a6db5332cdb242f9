"""What runs at the coordinator: it sees only sums, and holds no key and no image."""

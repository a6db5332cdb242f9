"""Random changes of appearance and pose that keep the anatomy."""

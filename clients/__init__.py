"""What runs at a site: it holds the data, the keys and the last word."""

"""What privacy costs: one grid of federated, centralised and private runs, trained, tested and reported together."""

"""The attacks themselves: one module for each idea, which exports its `ATTACKS`."""

"""The attacks themselves: one module each, which exports `ATTACK` or `ATTACKS`; whoever attacks is the aggregator."""

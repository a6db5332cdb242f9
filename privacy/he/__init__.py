"""Homomorphic encryption of the clients' integers: the aggregator adds ciphertexts and never sees even the sum."""

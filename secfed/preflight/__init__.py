"""What a run will need and what would stop it, said before anything runs: `secfed preflight`."""

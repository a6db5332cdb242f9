"""What a governance board reads of one run: who took part, what was protected against whom, and what shows it."""

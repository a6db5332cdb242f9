"""What an auditor runs: offline verification of transcripts, and the attack suite with its verdicts."""

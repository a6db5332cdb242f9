"""The names of the files in an aggregator's folder: written there, read by the experiment and by the auditor.

The auditor's process loads no aggregator, so the names stand here and not with `aggregator.folder`, which says what
each file is.
"""

PLAN = "plan.json"
SITES = "sites.json"
INITIAL = "initial.safetensors"
ROSTER = "roster.cbor"
ANCHOR = "anchor.pub"
JOURNAL = "journal.jsonl"
VIEW = "aggregator-view.json"
CHECKPOINTS = "checkpoints"
TRANSCRIPT = "transcript"
EVIDENCE = "evidence"
SIMULATED = "simulated"
HALF_OPENED = "half-opened.json"
OUTCOME = "outcome.json"

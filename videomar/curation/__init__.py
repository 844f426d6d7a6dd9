"""From raw videos to the ledger: shots, captions, scores, verdicts, splits."""

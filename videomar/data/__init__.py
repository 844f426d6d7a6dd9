"""From raw video files to a ledger of clips, and from cached latents to batches."""

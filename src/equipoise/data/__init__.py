"""Files to rows, rows to what an objective needs, rows to token ids, ids to batches."""

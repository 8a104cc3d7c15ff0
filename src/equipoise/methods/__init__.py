"""Published methods as functions over stages; nothing here imports torch."""

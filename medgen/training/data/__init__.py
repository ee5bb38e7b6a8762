"""Where a training gets its batches from."""

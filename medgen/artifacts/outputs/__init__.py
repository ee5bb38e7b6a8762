"""Outputs: files and folders that appear complete or not at all, keep what others wrote, and leave nothing behind."""

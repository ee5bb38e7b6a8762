"""Outputs: files and folders that appear whole, keep what others wrote, and leave nothing behind."""

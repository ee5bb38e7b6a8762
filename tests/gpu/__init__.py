"""What a CUDA machine should show, in parts of at most nine minutes."""

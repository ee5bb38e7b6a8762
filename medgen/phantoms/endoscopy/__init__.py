"""The colon as an endoscope shows it."""

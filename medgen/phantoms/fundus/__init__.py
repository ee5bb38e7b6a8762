"""The back of the eye as a fundus camera shows it."""

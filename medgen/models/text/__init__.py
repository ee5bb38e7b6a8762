"""How texts reach a network: what reads them, and the modalities that it knows."""

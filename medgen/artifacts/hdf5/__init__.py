"""Sets in HDF5 files: written with checksums of everything, opened only if plain."""

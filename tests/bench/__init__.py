"""`make bench`: medgen beside MONAI, diffusers, pydicom and torchmetrics, as ratios measured in one run."""

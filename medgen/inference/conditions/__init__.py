"""What samples are asked to show: vectors and masks from options, tables and sets, as one condition each."""

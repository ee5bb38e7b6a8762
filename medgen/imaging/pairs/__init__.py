"""Pairs of image and text, a row of a CSV each, for any number of rows in constant memory."""

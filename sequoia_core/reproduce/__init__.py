"""The published experiments, run again: decoding over a data set, and how robust rules are.

Owns what an experiment consists of and its figures. Decoding, timing and data sets are other
packages'; it knows neither terminal nor command line.
"""

"""The published experiments, run again: decoding over a data set, and how robust the rules are.

Decoding, timing and data sets are other packages'; nothing here knows a terminal or a command line.
"""

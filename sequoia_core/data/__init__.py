"""Texts and questions to measure on: named sets of the hub, files and folders."""

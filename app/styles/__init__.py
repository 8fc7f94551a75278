"""The style sheets of the app, as package data."""

"""Values as rows and words to show; knows no widget."""

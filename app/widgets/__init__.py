"""What the screens are made of, one noun per file."""

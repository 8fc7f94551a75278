"""One module per `sequoia` subcommand. They print; what they print comes from elsewhere."""

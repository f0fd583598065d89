"""What was there before: readings kept in a text file, and how this run's are held to them."""
